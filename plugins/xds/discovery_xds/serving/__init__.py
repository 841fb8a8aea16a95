"""The gRPC server: its port, its streams, and their measurements."""
