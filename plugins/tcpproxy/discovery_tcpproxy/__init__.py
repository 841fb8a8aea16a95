"""TCP proxy for the backends that the registry has at the moment.

This module imports nothing, since worker processes import the package and have to start quickly.
"""
