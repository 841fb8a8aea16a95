"""The data plane: a worker process that imports nothing but the standard library."""
