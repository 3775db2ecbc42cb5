#!/bin/bash
# start.sh HTTP_PORT MODEL     (foreground; health: GET /health -> ok)   MODEL: identity | mlp   (identity takes any shape)
# LitServe leaves its API and worker processes running when only its main process is killed: so it gets a process group of its own, ended as a whole.
export OMP_NUM_THREADS=1   # the fastest settings found for each model; override from the environment
if [ "$2" = mlp ]; then : ${BATCH:=32} ${BATCH_TIMEOUT:=0.02} ${FAST_QUEUE:=0}; else : ${BATCH:=64} ${BATCH_TIMEOUT:=0.001} ${FAST_QUEUE:=1}; fi
export BATCH BATCH_TIMEOUT FAST_QUEUE
setsid $PEERS/litserve/bin/python $PEERS/litserve/src/server.py "$1" "$2" &
pid=$!
stop() { kill -TERM -- -$pid 2>/dev/null; for i in $(seq 50); do kill -0 $pid 2>/dev/null || break; sleep 0.1; done; kill -KILL -- -$pid 2>/dev/null; exit 0; }
trap stop TERM INT HUP
wait $pid; rc=$?; kill -KILL -- -$pid 2>/dev/null; exit $rc
