"""Point 25: no program that is started here inherits the registry's password."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import DISCOVERY, RecordFiles, Starter, processes

from discovery.system.environment import child_environment
from discovery.testing import eventually_sync, free_port, require_program, within

TIMEOUT = 60.0
SECRETS = {
    "DISCOVERY_REGISTRY_PASSWORD": "hunter2",
    "DISCOVERY_REGISTRY": "etcd://user:hunter2@127.0.0.1:1",
    "OTEL_EXPORTER_OTLP_HEADERS": "api-key=hunter2",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=hunter2",
}


def test_what_is_secret_is_left_out_and_nothing_else() -> None:
    other = {"PATH": "/bin", "DISCOVERY_LOG_LEVEL": "debug"}
    assert child_environment(SECRETS | other) == other
    plain = {"DISCOVERY_REGISTRY": "etcd://user@127.0.0.1:2379/services"}
    assert child_environment(plain) == plain


@pytest.mark.costly
@pytest.mark.parametrize("plugin", ["haproxy", "tcpproxy"])
def test_neither_haproxy_nor_a_worker_inherits_it(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, plugin: str
) -> None:
    require_program("haproxy")
    url, write = file_registry
    write("web/b1", "127.0.0.1:9")
    start_daemon.environment |= SECRETS
    bind = f"127.0.0.1:{free_port()}"
    option = f"haproxy.services.web.bind={bind}" if plugin == "haproxy" else f"tcpproxy.listen.web={bind}"
    arguments = ["--registry", url, "--plugin", plugin, "--set", option]
    if plugin == "haproxy":  # whatever is run as HAProxy leaves a note of its environment
        require_program("haproxy")
        program = tmp_path / "noting-haproxy"
        program.write_text(f'#!/bin/sh\nenv >> {tmp_path}/environments\nexec haproxy "$@"\n')
        program.chmod(0o755)
        start_daemon.environment["PATH"] = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]
        )
        arguments += ["--set", f"haproxy.binary={program}"]
    daemon = start_daemon(*arguments)
    eventually_sync(daemon.is_ready, timeout=TIMEOUT)
    children = [pid for pid in processes(tmp_path) if pid != daemon.process.pid]
    assert children
    for pid in children:
        environment = Path(f"/proc/{pid}/environ").read_text()
        assert "PATH=" in environment
        assert "hunter2" not in environment
    if plugin == "haproxy":
        assert "hunter2" not in (tmp_path / "environments").read_text()


def test_the_command_of_register_does_not_inherit_it(tmp_path: Path, file_registry: RecordFiles) -> None:
    url, _ = file_registry
    done = subprocess.run(
        [
            *DISCOVERY,
            "register",
            "web",
            "127.0.0.1:9",
            "--registry",
            url,
            "--run-dir",
            str(tmp_path / "run"),
            "--",
            "env",
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=within(TIMEOUT),
        env={**os.environ, **SECRETS, "MINE": "stays"},
    )
    assert "MINE=stays" in done.stdout
    assert "hunter2" not in done.stdout
