"""The search for processes."""

import subprocess
from pathlib import Path

import pytest
from scarcity import run_scarce

from discovery_haproxy.program.process import find_processes, read_process

WITHOUT_DESCRIPTORS = """
import errno, os, sys
from discovery_haproxy.program import process
from scarcity import descriptors_left

searches = [
    lambda: process.read_process(os.getpid()),
    lambda: process.find_processes(sys.argv[1]),
    lambda: process.pids_of_program("python3"),
]
for left in (0, 1):
    for search in searches:
        with descriptors_left(left):
            try:
                found = search()
            except OSError as error:
                found = errno.errorcode[error.errno]
        print(bool(found) and (found if isinstance(found, str) else "found"))
"""


def test_a_shortage_of_descriptors_does_not_hide_processes(tmp_path: Path) -> None:
    """A search that fails must not say that no HAProxy runs: the plugin would start a second HAProxy."""
    found = run_scarce(WITHOUT_DESCRIPTORS, tmp_path / "argument").split()
    without, with_one = found[:3], found[3:]
    assert without == ["EMFILE"] * 3
    assert with_one[:2] == ["found", "found"]


def test_a_process_that_has_ended_is_not_found() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert read_process(process.pid) is None


@pytest.mark.costly
def test_a_process_that_executes_a_program_is_found(tmp_path: Path) -> None:
    """HAProxy's master executes itself at each start and reload, and has no command line meanwhile."""
    argument = str(tmp_path / "master.sock")
    process = subprocess.Popen(["sh", "-c", 'exec sh -c "$0" "$0" "$1"', 'exec sh -c "$0" "$0" "$1"', argument])
    try:
        found = [[each.pid for each in find_processes(argument)] for _ in range(200)]
    finally:
        process.kill()
        process.wait()
    assert [each for each in found if each != [process.pid]] == []
