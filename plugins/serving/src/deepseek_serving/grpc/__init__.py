"""gRPC: the protocol's messages and calls, and what carries them."""
