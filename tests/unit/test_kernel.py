"""System calls, by Python's own functions and without."""

import os
import signal
import subprocess

import pytest
from descriptors import readable

from discovery.system.kernel import memfd_create, pidfd_open, pidfd_send_signal


@pytest.mark.parametrize("has_its_own", [True, False])
def test_a_process_is_held_signalled_and_awaited(has_its_own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point 29. Portable builds of Python lack these functions."""
    if not has_its_own:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        monkeypatch.delattr(signal, "pidfd_send_signal", raising=False)
    with subprocess.Popen(["sleep", "600"]) as process:
        descriptor = pidfd_open(process.pid)
        assert not os.get_inheritable(descriptor)
        pidfd_send_signal(descriptor, signal.SIGTERM)
        assert readable([descriptor], 60)
    assert process.returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        pidfd_send_signal(descriptor, signal.SIGTERM)
    with pytest.raises(ProcessLookupError):
        pidfd_open(process.pid)
    os.close(descriptor)


@pytest.mark.parametrize("has_its_own", [True, False])
def test_a_file_in_memory_is_written_and_read(has_its_own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point 29."""
    if not has_its_own:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    with os.fdopen(memfd_create("some.cfg"), "w+b") as file:
        assert not os.get_inheritable(file.fileno())
        assert "some.cfg" in os.readlink(f"/proc/self/fd/{file.fileno()}")  # noqa: PTH115
        file.write(b"text")
        file.seek(0)
        assert file.read() == b"text"
