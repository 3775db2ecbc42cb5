"""Puts pipelines on the network: the Open Inference Protocol over HTTP and gRPC, and OpenAI's embeddings."""
