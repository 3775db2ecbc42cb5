#!/bin/bash
# start.sh HTTP_PORT GRPC_PORT MODEL[,MODEL...]     (foreground; health: GET /v2/health/ready, empty 200)
# MODEL: identity | identity_image | identity_ort (ONNX Runtime) | mlp (1 instance, batch 64) | mlp_i2 (2 instances, batch 32) | mlp_one (2 instances, no batches): C++ backends;  the same names + _py, and identity_dyn_py (dynamic batching): Python backend
http=$1; grpc=$2; models=$3
base=$PEERS/triton
ts=$base/lib/python3.11/site-packages/pytriton/tritonserver
args=(); for m in ${models//,/ }; do args+=(--load-model="$m"); done
export ORT_LIB=$(echo $base/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1*)
export PATH=$base/bin:$PATH PYTHONPATH=$base/lib/python3.11/site-packages
# libpython, for the stub of the Python backend.
export LD_LIBRARY_PATH=$($base/bin/python -c "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
exec $ts/bin/tritonserver --model-repository=$base/repo --backend-directory=$base/backends \
  --model-control-mode=explicit "${args[@]}" --http-address=127.0.0.1 --http-port=$http --grpc-address=127.0.0.1 --grpc-port=$grpc \
  --allow-metrics=${METRICS:-false} --disable-auto-complete-config --log-info=${LOG_INFO:-false} --log-warning=true $TRITON_ARGS
