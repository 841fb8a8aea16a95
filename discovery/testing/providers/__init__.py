"""The contract of providers."""
