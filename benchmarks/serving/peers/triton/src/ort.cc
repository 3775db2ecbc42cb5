// Triton C++ backend 'cpport': one ONNX Runtime session an instance, one intra-op thread, INPUT0 [n,k] -> OUTPUT0 [n,m], FP32.
// The requests of one execute call are joined to one batch. Reads <model>/<version>/model.onnx.
// Build: g++ -O2 -std=c++17 -shared -fPIC -o libtriton_cpport.so ort.cc -ldl
// ONNX Runtime is opened with dlopen (ORT_LIB) and called through its append-only function table by ordinal, so no header is needed.
#include "triton_api.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <vector>

using Fn = void*;
struct OrtBase { Fn* (*GetApi)(uint32_t); const char* (*GetVersionString)(); };
static Fn* api;                                   // OrtApi as an array of function pointers
enum { GetErrorMessage = 2, CreateEnv = 3, CreateSession = 7, Run = 9, CreateSessionOptions = 10, SetGraphOpt = 23, SetIntra = 24,
       SetInter = 25, CreateTensorWithData = 49, GetTensorMutableData = 51, GetDimsCount = 61, GetDims = 62, GetTensorTypeAndShape = 65,
       CreateCpuMemoryInfo = 69, ReleaseStatus = 93, ReleaseValue = 96, ReleaseTypeShape = 99 };
template <class... A> static void* call(int i, A... a) { return reinterpret_cast<void* (*)(A...)>(api[i])(a...); }

struct Instance { void *session = nullptr, *meminfo = nullptr; std::vector<float> joined; };

static TRITONSERVER_Error* ort_error(void* st) {
  std::string m = reinterpret_cast<const char* (*)(void*)>(api[GetErrorMessage])(st);
  call(ReleaseStatus, st);
  return TRITONSERVER_ErrorNew(TRITON_INTERNAL, m.c_str());
}
#define TRY(x) do { TRITONSERVER_Error* e_ = (x); if (e_) return e_; } while (0)
#define ORT(x) do { void* s_ = (x); if (s_) return ort_error(s_); } while (0)
#define EXPORT extern "C" __attribute__((visibility("default")))
static void drop(TRITONSERVER_Error* e) { if (e) TRITONSERVER_ErrorDelete(e); }

EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* inst) {
  static void* env = nullptr;
  if (!api) {
    const char* lib = getenv("ORT_LIB");
    void* h = lib ? dlopen(lib, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!h) return TRITONSERVER_ErrorNew(TRITON_INTERNAL, lib ? dlerror() : "ORT_LIB is not set");
    auto* base = reinterpret_cast<OrtBase* (*)()>(dlsym(h, "OrtGetApiBase"))();
    api = base->GetApi(11);
    if (!api) return TRITONSERVER_ErrorNew(TRITON_INTERNAL, "onnxruntime has no API version 11");
    fprintf(stderr, "cpport: onnxruntime %s\n", base->GetVersionString());
    ORT(call(CreateEnv, 3 /* error */, "cpport", &env));
  }
  TRITONBACKEND_Model* model; int kind; const char* path; uint64_t version;
  TRY(TRITONBACKEND_ModelInstanceModel(inst, &model));
  TRY(TRITONBACKEND_ModelRepository(model, &kind, &path));
  TRY(TRITONBACKEND_ModelVersion(model, &version));
  std::string file = std::string(path) + "/" + std::to_string(version) + "/model.onnx";
  auto* st = new Instance; void* opt;
  ORT(call(CreateSessionOptions, &opt));
  ORT(call(SetGraphOpt, opt, 99)); ORT(call(SetIntra, opt, 1)); ORT(call(SetInter, opt, 1));
  ORT(call(CreateSession, env, file.c_str(), opt, &st->session));
  ORT(call(CreateCpuMemoryInfo, 1 /* arena */, 0 /* default */, &st->meminfo));
  return TRITONBACKEND_ModelInstanceSetState(inst, st);
}

static TRITONSERVER_Error* run(Instance* st, TRITONBACKEND_Request** reqs, uint32_t n, std::vector<int64_t>& rows, int64_t& total, void** value) {
  int64_t width = 0; total = 0; st->joined.clear();
  for (uint32_t i = 0; i < n; ++i) {
    TRITONBACKEND_Input* in; const char* name; int type; const int64_t* shape; uint32_t dims, nbuf; uint64_t bytes;
    TRY(TRITONBACKEND_RequestInputByIndex(reqs[i], 0, &in));
    TRY(TRITONBACKEND_InputProperties(in, &name, &type, &shape, &dims, &bytes, &nbuf));
    if (type != TRITON_FP32 || dims != 2) return TRITONSERVER_ErrorNew(TRITON_INVALID_ARG, "FP32 [n,k] expected");
    rows[i] = shape[0]; total += shape[0]; width = shape[1];
    for (uint32_t b = 0; b < nbuf; ++b) {
      const void* src; uint64_t len; int m = TRITON_CPU; int64_t id = 0;
      TRY(TRITONBACKEND_InputBuffer(in, b, &src, &len, &m, &id));
      auto* f = static_cast<const float*>(src);
      st->joined.insert(st->joined.end(), f, f + len / 4);
    }
  }
  int64_t shape[2] = {total, width}; void* x = nullptr; *value = nullptr;
  const char *in_name = "INPUT0", *out_name = "OUTPUT0";
  ORT(call(CreateTensorWithData, st->meminfo, (void*)st->joined.data(), (size_t)st->joined.size() * 4, (const int64_t*)shape, (size_t)2, 1 /* float */, &x));
  void* s = call(Run, st->session, (void*)nullptr, &in_name, (void* const*)&x, (size_t)1, &out_name, (size_t)1, value);
  call(ReleaseValue, x);
  return s ? ort_error(s) : nullptr;
}

EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* inst, TRITONBACKEND_Request** reqs, const uint32_t n) {
  uint64_t t0 = now_ns(); void* state; Instance* st;
  TRY(TRITONBACKEND_ModelInstanceState(inst, &state)); st = static_cast<Instance*>(state);
  std::vector<int64_t> rows(n); int64_t total = 0, width = 0; void* value = nullptr; float* y = nullptr;
  TRITONSERVER_Error* failed = run(st, reqs, n, rows, total, &value);
  uint64_t t1 = now_ns();
  if (!failed) {
    void* info; int64_t d[2];
    call(GetTensorMutableData, value, &y); call(GetTensorTypeAndShape, value, &info);
    call(GetDims, info, d, (size_t)2); call(ReleaseTypeShape, info); width = d[1];
  }
  for (uint32_t i = 0; i < n; ++i) {
    TRITONBACKEND_Response* resp; TRITONSERVER_Error* err = TRITONBACKEND_ResponseNew(&resp, reqs[i]);
    if (!err) {
      TRITONSERVER_Error* e = failed;
      if (!failed) {
        TRITONBACKEND_Output* out; void* dst; int mem = TRITON_CPU; int64_t id = 0, shape[2] = {rows[i], width};
        e = TRITONBACKEND_ResponseOutput(resp, &out, "OUTPUT0", TRITON_FP32, shape, 2);
        if (!e) e = TRITONBACKEND_OutputBuffer(out, &dst, rows[i] * width * 4, &mem, &id);
        if (!e) { std::memcpy(dst, y, rows[i] * width * 4); y += rows[i] * width; }
      }
      err = TRITONBACKEND_ResponseSend(resp, TRITON_FINAL, e);
      if (e && e != failed) drop(e);
    }
    drop(err);
    uint64_t t2 = now_ns();
    drop(TRITONBACKEND_ModelInstanceReportStatistics(inst, reqs[i], !failed, t0, t0, t1, t2));
    drop(TRITONBACKEND_RequestRelease(reqs[i], TRITON_RELEASE_ALL));
  }
  drop(TRITONBACKEND_ModelInstanceReportBatchStatistics(inst, total ? total : n, t0, t0, t1, now_ns()));
  if (value) call(ReleaseValue, value);
  drop(failed);
  return nullptr;
}
