"""Carries TCP to whatever the registry names now.

Imports nothing: the worker processes, which have to start quickly, are part of this package.
"""
