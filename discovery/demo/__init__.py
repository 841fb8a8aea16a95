"""The demo: etcd, HAProxy and three web servers on loopback ports, and a backend that moves without failed requests."""

from discovery.demo.steps import run_demo

__all__ = ["run_demo"]
