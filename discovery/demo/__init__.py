"""The demo: etcd, HAProxy and three web servers on loopback, and what happens when a backend moves."""

from discovery.demo.steps import run_demo

__all__ = ["run_demo"]
