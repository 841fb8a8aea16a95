"""The data plane: a process of its own, on the standard library alone."""
