"""server.py PORT identity|mlp: LitServe, POST /predict {"input": sample} -> {"output": sample}; GET /health says ok.

Environment: BATCH (64), BATCH_TIMEOUT seconds (0.001), FAST_QUEUE (0: multiprocessing queue, the default; 1: ZeroMQ),
WORKERS (1), API_SERVERS (1).
"""

import os
import sys

import litserve as ls
import numpy as np


class Identity(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return np.asarray(request["input"], np.float32)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        return x

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"output": output.tolist()}


class Mlp(Identity):
    def setup(self, device):
        import onnxruntime as ort

        so = ort.SessionOptions()
        so.intra_op_num_threads = 1
        so.inter_op_num_threads = 1
        self.s = ort.InferenceSession(os.environ["PEERS"] + "/models/mlp.onnx", so, providers=["CPUExecutionProvider"])

    def predict(self, x):
        if x.ndim == 1:
            return self.s.run(None, {"INPUT0": x[None]})[0][0]
        return self.s.run(None, {"INPUT0": x})[0]


if __name__ == "__main__":
    env = os.environ.get
    cls = Mlp if sys.argv[2] == "mlp" else Identity
    api = cls(max_batch_size=int(env("BATCH", "64")), batch_timeout=float(env("BATCH_TIMEOUT", "0.001")))
    server = ls.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=int(env("WORKERS", "1")),
        timeout=120,
        fast_queue=env("FAST_QUEUE", "0") == "1",
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=int(env("API_SERVERS", "1")),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
