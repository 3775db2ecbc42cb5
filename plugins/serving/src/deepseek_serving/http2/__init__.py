"""HTTP/2 of a server, as much of it as gRPC needs: frames, header blocks, flow control, connections."""
