"""Run in an environment of its own: the newest tritonclient and kserve's REST client, unmodified, against a server.

Usage: client_script.py triton|kserve HTTP GRPC, both as host:port. One of them, because both hold the protocol's
messages, which a process can have but once. Prints a line for each client that got its answers.
"""

import asyncio
import sys

import numpy as np

X = np.arange(32, dtype=np.float32).reshape(2, 16)


def triton(module, address):
    with module.InferenceServerClient(address) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("float")
        tensor = module.InferInput("x", [2, 16], "FP32")
        tensor.set_data_from_numpy(X)
        answer = client.infer("float", [tensor], outputs=[module.InferRequestedOutput("y")], request_id="1")
        np.testing.assert_array_equal(answer.as_numpy("y"), X)
        client.get_model_config("float")
        client.get_inference_statistics("float")


async def kserve(address):
    from kserve import InferenceRESTClient, RESTConfig
    from kserve.protocol.infer_type import InferInput, InferRequest

    client, url = InferenceRESTClient(RESTConfig(protocol="v2")), f"http://{address}"
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, "float")
    for binary in (False, True):
        tensor = InferInput("x", [2, 16], "FP32")
        tensor.set_data_from_numpy(X, binary_data=binary)
        answer = await client.infer(url, InferRequest("float", [tensor]), model_name="float")
        np.testing.assert_array_equal(answer.outputs[0].as_numpy().reshape(2, 16), X)


def main():
    which, http, grpc = sys.argv[1:]
    if which == "kserve":
        asyncio.run(kserve(http))
        print("kserve")
        return
    import tritonclient.grpc
    import tritonclient.http

    triton(tritonclient.http, http)
    print("tritonclient.http")
    triton(tritonclient.grpc, grpc)
    print("tritonclient.grpc")


if __name__ == "__main__":
    main()
