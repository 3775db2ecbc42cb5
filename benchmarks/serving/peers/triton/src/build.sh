#!/bin/bash
# Builds both C++ backends into a backend directory (default $PEERS/triton/backends) and links the wheel's Python backend beside them.
set -e
here=$(cd "$(dirname "$0")" && pwd); dir=${1:-$PEERS/triton/backends}
ts=$PEERS/triton/lib/python3.11/site-packages/pytriton/tritonserver
mkdir -p "$dir"/{cppidentity,cpport,python}
g++ -O2 -std=c++17 -shared -fPIC -Wall -o "$dir/cppidentity/libtriton_cppidentity.so" "$here/identity.cc"
g++ -O2 -std=c++17 -shared -fPIC -Wall -o "$dir/cpport/libtriton_cpport.so" "$here/ort.cc" -ldl
ln -sf "$ts"/backends/python/libtriton_python.so "$ts"/backends/python/triton_python_backend_utils.py "$ts"/python_backend_stubs/3.11/triton_python_backend_stub "$dir/python/"
