"""The daemon in surroundings that nobody wishes for."""

import signal
from typing import Any

import pytest
from daemons import RecordFiles, Starter, processes

from discovery.testing import eventually_sync, free_port, require_program


@pytest.mark.costly
def test_a_request_to_stop_that_comes_as_two_signals_leaves_no_haproxy(
    start_daemon: Starter, file_registry: RecordFiles
) -> None:
    # As timeout(1) sends them: to us, and to the group that we are in.
    require_program("haproxy")
    url, write = file_registry
    write("web/b1", f"127.0.0.1:{free_port()}")
    bind = f"haproxy.services.web.bind=127.0.0.1:{free_port()}"
    daemon = start_daemon("--registry", url, "--plugin", "haproxy", "--set", bind)
    eventually_sync(daemon.is_ready, "ready", timeout=30)
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.stop(signal.SIGTERM) == 0
    assert processes(daemon.run_dir) == {}


@pytest.mark.costly
def test_an_edit_that_breaks_the_configuration_and_its_repair_leave_haproxy_alone(
    tmp_path: Any, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    require_program("haproxy")
    url, write = file_registry
    write("web/b1", f"127.0.0.1:{free_port()}")
    config = tmp_path / "discovery.toml"
    valid = f'[consumers.edge]\nplugin = "haproxy"\nservices.web.bind = "127.0.0.1:{free_port()}"\n'
    config.write_text(valid)
    daemon = start_daemon("--registry", url, "--config", str(config))
    eventually_sync(daemon.is_ready, "ready", timeout=30)
    before = processes(daemon.run_dir)
    for broken in ("nonsense", valid.replace("haproxy", "nonsense"), valid.replace("bind", "bnid")):
        config.write_text(broken)
        eventually_sync(lambda: daemon.get("/healthz")[1]["config_error"], "an error")
        config.write_text(valid)
        eventually_sync(lambda: daemon.get("/healthz")[1]["config_error"] is None, "no error")
    config.unlink()
    eventually_sync(lambda: "cannot be read" in (daemon.get("/healthz")[1]["config_error"] or ""), "an error")
    assert daemon.get("/healthz")[0] == 200
    # The same master and worker; one that checks a configuration may have come and gone.
    eventually_sync(lambda: processes(daemon.run_dir) == before, "HAProxy as it was")
