// Triton C++ backend 'cppidentity': OUTPUT0 = INPUT0, FP32, any shape, every request on its own.
// Build: g++ -O2 -std=c++17 -shared -fPIC -o libtriton_cppidentity.so identity.cc
#include "triton_api.h"
#include <cstring>

#define TRY(x) do { TRITONSERVER_Error* e_ = (x); if (e_) return e_; } while (0)

static TRITONSERVER_Error* answer(TRITONBACKEND_Request* req, TRITONBACKEND_Response* resp) {
  TRITONBACKEND_Input* in; TRITONBACKEND_Output* out; void* dst; int mem = TRITON_CPU; int64_t id = 0;
  const char* name; int type; const int64_t* shape; uint32_t dims, nbuf; uint64_t bytes;
  TRY(TRITONBACKEND_RequestInputByIndex(req, 0, &in));
  TRY(TRITONBACKEND_InputProperties(in, &name, &type, &shape, &dims, &bytes, &nbuf));
  TRY(TRITONBACKEND_ResponseOutput(resp, &out, "OUTPUT0", type, shape, dims));
  TRY(TRITONBACKEND_OutputBuffer(out, &dst, bytes, &mem, &id));
  if (mem == 2) return TRITONSERVER_ErrorNew(TRITON_INTERNAL, "output buffer not in host memory");
  char* p = static_cast<char*>(dst);
  for (uint32_t b = 0; b < nbuf; ++b) {
    const void* src; uint64_t n; int m = TRITON_CPU; int64_t i = 0;
    TRY(TRITONBACKEND_InputBuffer(in, b, &src, &n, &m, &i));
    std::memcpy(p, src, n); p += n;
  }
  return nullptr;
}

extern "C" __attribute__((visibility("default"))) TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* inst, TRITONBACKEND_Request** reqs, const uint32_t n) {
  uint64_t t0 = now_ns();
  for (uint32_t i = 0; i < n; ++i) {
    TRITONBACKEND_Response* resp = nullptr;
    TRITONSERVER_Error* err = TRITONBACKEND_ResponseNew(&resp, reqs[i]);
    bool ok = false;
    if (!err) {
      TRITONSERVER_Error* e = answer(reqs[i], resp);
      ok = e == nullptr;
      err = TRITONBACKEND_ResponseSend(resp, TRITON_FINAL, e);
      if (e) TRITONSERVER_ErrorDelete(e);
    }
    if (err) TRITONSERVER_ErrorDelete(err);
    uint64_t t1 = now_ns();
    if (auto* e = TRITONBACKEND_ModelInstanceReportStatistics(inst, reqs[i], ok, t0, t0, t1, t1)) TRITONSERVER_ErrorDelete(e);
    if (auto* e = TRITONBACKEND_RequestRelease(reqs[i], TRITON_RELEASE_ALL)) TRITONSERVER_ErrorDelete(e);
  }
  uint64_t t1 = now_ns();
  if (auto* e = TRITONBACKEND_ModelInstanceReportBatchStatistics(inst, n, t0, t0, t1, t1)) TRITONSERVER_ErrorDelete(e);
  return nullptr;
}
