"""Tests that run in parallel are given ports of their own."""

import subprocess
import sys

PORTS = """
from discovery.testing import free_port
print(*(free_port() for _ in range(400)), flush=True)
input()
"""


def test_two_processes_are_never_given_one_port() -> None:
    command = [sys.executable, "-c", PORTS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as one, subprocess.Popen(command, text=True, **pipes) as other:
        assert one.stdout is not None
        assert other.stdout is not None
        given = [set(process.stdout.readline().split()) for process in (one, other)]
        for process in (one, other):
            process.communicate("\n")
    assert [len(ports) for ports in given] == [400, 400]
    assert given[0] & given[1] == set()
