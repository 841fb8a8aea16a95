"""A daemon that is forked (`tests/support/warm.py`) finds what one that is started finds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemons import Starter

from discovery.testing import eventually_sync

LOOKS = """
import json, os, sys
from pathlib import Path
from discovery import hookimpl

@hookimpl
def discovery_backends_changed(changes, snapshot):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found = {
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "leads a session": os.getsid(0) == os.getpid(),
        "status": [status[name] for name in ("Umask", "SigBlk", "SigIgn")],
        "stdin": os.readlink("/proc/self/fd/0"),
        "streams": [(each.line_buffering, each.encoding, each.errors) for each in (sys.stdin, sys.stdout, sys.stderr)],
    }
    out = Path(os.environ["FOUND"])
    out.with_suffix(".new").write_text(json.dumps(found))
    out.with_suffix(".new").rename(out)
"""


def test_a_forked_daemon_finds_what_one_that_is_started_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start_daemon: Starter,
    install_plugin: Callable[..., None],
    file_registry: tuple[str, Callable[[str, str], None]],
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    install_plugin("looks", LOOKS)
    out = tmp_path / "found"
    start_daemon.environment["FOUND"] = str(out)

    def found() -> dict[str, Any]:
        daemon = start_daemon("--plugin", "looks", "--registry", file_registry[0])
        document: dict[str, Any] = json.loads(eventually_sync(out.read_text, "what the daemon finds", 60))
        assert daemon.stop() == 0
        out.unlink()
        return document

    started = found()
    start_daemon.forks = True
    assert found() == started
