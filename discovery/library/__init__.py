"""Use of the framework as a library: an application follows a registry, or registers itself, without a daemon.

Public API, offered by `discovery`. Etcd's client (grpc) survives no fork, and a process that ends by a signal runs no
Python. So the synchronous forms and every registration leave the registry to a helper process (`helper.py`), which
ends after the application and its forked children.
"""
