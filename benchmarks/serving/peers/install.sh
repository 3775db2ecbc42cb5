#!/bin/bash
# Installs the peers that the serving benchmark measures beside us, each in an environment of its own, into $PEERS.
# Debian, Python 3.11; needs root for wrk, h2load and a C++ compiler.
set -e
here=$(cd "$(dirname "$0")" && pwd); export PEERS=${PEERS:-$here/../.peers}; mkdir -p "$PEERS"; PEERS=$(cd "$PEERS" && pwd)
apt-get update -qq && apt-get install -y -qq wrk nghttp2-client g++
cd "$PEERS"; mkdir -p models bodies logs
for n in triton mlserver litserve; do [ -x $n/bin/python ] || python3 -m venv $n; done
# The wheel of pytriton holds the server itself, with its Python backend.
triton/bin/pip install -q nvidia-pytriton==0.7.0 onnx==1.23.2 onnxruntime==1.32.0 'tritonclient[grpc]==2.73.0'
mlserver/bin/pip install -q mlserver==1.7.1 onnxruntime==1.32.0 uvloop==0.21.0
litserve/bin/pip install -q litserve==0.2.19 onnxruntime==1.32.0
ln -sfn "$here/mlserver" mlserver/src; ln -sfn "$here/litserve" litserve/src
rm -rf triton/repo; cp -r "$here/triton/repo" triton/repo
# Triton wants a folder for the version, also an empty one.
for m in identity identity_image identity_ort mlp mlp_i2 mlp_one; do mkdir -p triton/repo/$m/1; done
for m in mlp mlp_i2 mlp_one; do ln -sf "$PEERS/models/mlp.onnx" triton/repo/$m/1/model.onnx; done
# Written by ../run.py, as ours.
ln -sf "$PEERS/deepseek/identity_onnx/m.onnx" triton/repo/identity_ort/1/model.onnx
for n in triton mlserver litserve; do ln -sf "$here/$n/start.sh" $n/start.sh; done
"$here/triton/src/build.sh"
