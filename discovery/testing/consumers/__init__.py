"""The contract of consumers."""
