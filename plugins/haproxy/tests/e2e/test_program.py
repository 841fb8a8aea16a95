"""A HAProxy program that does not run."""

from pathlib import Path

import pytest
from daemons import RecordFiles, Starter

from discovery.testing import eventually_sync, free_port

TIMEOUT = 60.0


@pytest.mark.costly
def test_the_reason_why_haproxy_does_not_run_is_reported(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    program = tmp_path / "haproxy"
    program.write_text(
        "#!/bin/sh\necho 'haproxy: error while loading shared libraries: libcrypt.so.9: no such file' >&2\nexit 127\n"
    )
    program.chmod(0o755)
    url, _ = file_registry
    daemon = start_daemon("--registry", url, "--plugin", "haproxy", "--set", f"haproxy.binary={program}",
                          "--set", f"haproxy.services.web.bind=127.0.0.1:{free_port()}")  # fmt: skip
    eventually_sync(lambda: "setup failed" in daemon.log, timeout=TIMEOUT)
    assert "exit 127: haproxy: error while loading shared libraries: libcrypt.so.9" in daemon.log
    assert "libcrypt.so.9" in str(daemon.get("/healthz")[1]["problems"])
