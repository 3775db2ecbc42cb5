"""HTTP/1.1: connections, the short road of inference, and an ASGI application for everything else."""
