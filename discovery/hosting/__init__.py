"""Plugins from outside: found by entry point, and each kept to itself on a thread of its own."""
