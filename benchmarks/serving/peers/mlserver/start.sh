#!/bin/bash
# start.sh HTTP_PORT GRPC_PORT MODEL     (foreground; health: GET /v2/health/ready)   MODEL: identity | identity_image | mlp
# WORKERS=0: the model runs in the server process (default here for the identities: fastest); 1: one inference worker process, MLServer's own default (default here for mlp: fastest).
# MLServer can hang at SIGTERM when clients left with requests in flight: so a process group of its own, killed after 5 s.
base=$PEERS/mlserver
[ "$3" = mlp ] && : ${WORKERS:=1}
export MLSERVER_HOST=127.0.0.1 MLSERVER_HTTP_PORT=$1 MLSERVER_GRPC_PORT=$2 MLSERVER_METRICS_PORT=$(($2 + 1)) MLSERVER_PARALLEL_WORKERS=${WORKERS:-0} MLSERVER_DEBUG=false
export MLSERVER_METRICS_DIR=$(mktemp -d) PYTHONPATH=$base/src OMP_NUM_THREADS=1
cd $base/src/models/$3 || exit 1
setsid $base/bin/mlserver start . &
pid=$!
stop() { kill -TERM -- -$pid 2>/dev/null; for i in $(seq 50); do kill -0 $pid 2>/dev/null || break; sleep 0.1; done; kill -KILL -- -$pid 2>/dev/null; exit 0; }
trap stop TERM INT HUP
wait $pid; rc=$?; kill -KILL -- -$pid 2>/dev/null; exit $rc
