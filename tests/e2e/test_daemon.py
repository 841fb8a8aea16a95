"""The daemon: readiness, metrics, reload, the remembered snapshot, faults and signals."""

import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import RecordFiles, Starter

from discovery.testing import eventually_sync, free_port, within

pytestmark = pytest.mark.warm

SLOW = """
import time
from pathlib import Path

Path({begun!r}).touch()
while not Path({go_on!r}).exists():
    time.sleep(0.01)
import no_such_module_anywhere
"""
COPIES = """
from pathlib import Path
from discovery import Consumer, PluginConfig, Update, hookimpl

class Options(PluginConfig):
    path: Path
    label: str = ""

class Copies(Consumer[Options]):
    Config = Options

    @property
    def resident(self) -> bool:
        return self.config.label == "resident"

    async def setup(self) -> None:
        with self.config.path.with_suffix(".events").open("a") as log:
            print("setup", self.config.label, file=log)

    async def apply(self, update: Update) -> None:
        if self.config.label == "fail":
            raise RuntimeError("told to")
        text = " ".join([self.config.label, *(backend.address for backend in update.snapshot.backends())])
        temporary = self.config.path.with_suffix(".new")
        temporary.write_text(text.strip())
        temporary.replace(self.config.path)

    async def preview(self, update: Update) -> str:
        return "+ " + " ".join(backend.address for backend in update.snapshot.backends())

@hookimpl
def discovery_register_consumers(register):
    register("copies", Copies)
"""


@pytest.fixture
def copies(install_plugin: Callable[..., None]) -> None:
    install_plugin("copies", COPIES)


def config(path: Path, url: str, body: str) -> Path:
    text = f'[registry]\nurl = "{url}"\n{body}'
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)
    return path


APPLIES = 'discovery_consumer_applies_total{consumer="copies"}'


def consumer(name: str, out: Path, label: str = "") -> str:
    return f'[consumers.{name}]\nplugin = "copies"\npath = "{out}"\nlabel = "{label}"\n'


@pytest.mark.usefixtures("copies")
def test_admin_endpoint_tells_readiness_health_metrics_and_state(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    write("web/a", "10.0.0.1:80")
    write("web/bad", "not an address")
    daemon = start_daemon("--registry", url, "--plugin", "copies", "--set", f"copies.path={tmp_path / 'out'}")
    eventually_sync(daemon.is_ready, timeout=20)
    assert daemon.get("/healthz") == (200, daemon.get("/healthz")[1])
    assert daemon.get("/healthz")[1]["status"] == "ok"
    # A file that is younger than the daemon's first look may still be written, and is rejected at the second look.
    eventually_sync(lambda: daemon.get("/api/snapshot")[1]["rejected"], "the bad record to be rejected")
    snapshot = daemon.get("/api/snapshot")[1]
    assert [each["id"] for each in snapshot["services"]["web"]] == ["a"]
    assert [each["key"] for each in snapshot["rejected"]] == ["web/bad"]
    eventually_sync(lambda: daemon.consumer("copies")["applied_revision"] == snapshot["revision"], "the apply")
    copies = daemon.consumer("copies")
    assert copies["offered_revision"] == snapshot["revision"]
    metrics = daemon.get("/metrics")[1]
    (applies,) = (float(line.split()[1]) for line in metrics.splitlines() if line.startswith(APPLIES))
    assert applies in (1, 2)
    for line in (
        f"discovery_registry_revision {snapshot['revision']:.1f}",
        "discovery_registry_connected 1.0",
        "discovery_rejected_records 1.0",
        'discovery_backends{service="web",state="active"} 1.0',
        f'discovery_consumer_applied_revision{{consumer="copies"}} {snapshot["revision"]:.1f}',
        'discovery_consumer_lag_revisions{consumer="copies"} 0.0',
        'discovery_consumer_failures_total{consumer="copies"} 0.0',
        'discovery_consumer_apply_seconds_count{consumer="copies"} ' + str(applies),
    ):
        assert line in metrics.splitlines()
    assert daemon.stop() == 0


@pytest.mark.usefixtures("copies")
def test_a_failing_apply_shows_its_reason_in_log_health_and_metrics(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    arguments = ("--set", f"copies.path={tmp_path / 'out'}", "--set", "copies.label=fail")
    daemon = start_daemon("--registry", file_registry[0], "--plugin", "copies", *arguments)
    eventually_sync(lambda: daemon.get("/healthz")[1]["problems"] == {"copies": "RuntimeError: told to"}, timeout=20)
    assert daemon.get("/healthz")[0] == 503
    assert 'discovery_consumer_healthy{consumer="copies"} 0.0' in daemon.get("/metrics")[1]
    assert "RuntimeError: told to" in daemon.log


@pytest.mark.usefixtures("copies")
def test_a_changed_configuration_restarts_only_what_changed(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    write("web/a", "10.0.0.1:80")
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    path = config(tmp_path / "discovery.toml", url, consumer("one", one, "1") + consumer("two", two, "2"))
    daemon = start_daemon("--config", str(path))
    eventually_sync(lambda: (one.read_text(), two.read_text()) == ("1 10.0.0.1:80", "2 10.0.0.1:80"), timeout=20)
    config(path, url, consumer("one", one, "1") + consumer("two", two, "new") + consumer("three", three))
    eventually_sync(lambda: (two.read_text(), three.read_text()) == ("new 10.0.0.1:80", "10.0.0.1:80"))
    assert one.with_suffix(".events").read_text() == "setup 1\n"
    config(path, url, consumer("one", one, "1"))
    eventually_sync(lambda: [each["name"] for each in daemon.get("/api/consumers")[1]["consumers"]] == ["one"])
    write("web/a", "10.0.0.9:80")
    eventually_sync(lambda: one.read_text() == "1 10.0.0.9:80")
    assert three.read_text() == "10.0.0.1:80"


@pytest.mark.usefixtures("copies")
def test_an_invalid_new_configuration_is_reported_and_not_applied(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    out = tmp_path / "out"
    write("web/a", "10.0.0.1:80")
    path = config(tmp_path / "discovery.toml", url, consumer("one", out))
    daemon = start_daemon("--config", str(path))
    eventually_sync(out.exists, timeout=20)
    config(path, url, consumer("one", out) + "labl = 1\n")
    eventually_sync(lambda: "did you mean 'label'?" in (daemon.get("/healthz")[1]["config_error"] or ""))
    assert "discovery_config_ok 0.0" in daemon.get("/metrics")[1]
    write("web/a", "10.0.0.2:80")
    eventually_sync(lambda: out.read_text() == "10.0.0.2:80")
    config(path, url, consumer("one", out, "fine"))
    daemon.process.send_signal(signal.SIGHUP)
    eventually_sync(lambda: out.read_text() == "fine 10.0.0.2:80")
    assert daemon.get("/healthz")[1]["config_error"] is None


@pytest.mark.usefixtures("copies")
def test_a_broken_plugin_in_a_new_configuration_ends_no_reloading_and_delays_nothing(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, install_plugin: Callable[..., None]
) -> None:
    url, write = file_registry
    out, begun, go_on = tmp_path / "out", tmp_path / "begun", tmp_path / "go on"
    install_plugin("broken", SLOW.format(begun=str(begun), go_on=str(go_on)))
    write("web/a", "10.0.0.1:80")
    path = config(tmp_path / "discovery.toml", url, consumer("one", out))
    daemon = start_daemon("--config", str(path))
    eventually_sync(out.exists, timeout=20)
    config(path, "broken://", consumer("one", out))
    eventually_sync(begun.exists)
    write("web/a", "10.0.0.2:80")
    eventually_sync(lambda: out.read_text() == "10.0.0.2:80")  # while the plugin is being imported
    assert daemon.get("/healthz")[1]["config_error"] is None
    go_on.touch()
    eventually_sync(lambda: "no_such_module_anywhere" in (daemon.get("/healthz")[1]["config_error"] or ""))
    config(path, url, consumer("one", out, "fine"))
    eventually_sync(lambda: out.read_text() == "fine 10.0.0.2:80")


@pytest.mark.usefixtures("copies")
def test_another_registry_is_followed_after_a_reload(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    out, other = tmp_path / "out", tmp_path / "other"
    write("web/a", "10.0.0.1:80")
    (other / "web").mkdir(parents=True)
    (other / "web" / "b").write_text("10.0.0.2:80")
    path = config(tmp_path / "discovery.toml", url, consumer("one", out))
    start_daemon("--config", str(path))
    eventually_sync(lambda: out.read_text() == "10.0.0.1:80", timeout=20)
    config(path, f"file://{other}", consumer("one", out))
    eventually_sync(lambda: out.read_text() == "10.0.0.2:80")


@pytest.mark.usefixtures("copies")
def test_a_restart_during_an_outage_serves_what_was_remembered_and_shows_its_age(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    write("web/a", "10.0.0.1:80")
    out = tmp_path / "out"
    arguments = ("--registry", url, "--plugin", "copies", "--set", f"copies.path={out}")
    first = start_daemon(*arguments)
    eventually_sync(first.is_ready, timeout=20)
    assert first.stop() == 0
    out.unlink()
    registry = Path(url.removeprefix("file://"))
    registry.rename(tmp_path / "away")
    second = start_daemon(*arguments)
    eventually_sync(lambda: out.read_text() == "10.0.0.1:80", timeout=20)
    state = second.get("/healthz")[1]["registry"]
    assert state["snapshot_from_disk"]
    assert not state["connected"]
    assert state["snapshot_age_seconds"] > 0
    assert "age_seconds=" in second.log
    shutil.move(tmp_path / "away", registry)
    write("web/a", "10.0.0.3:80")
    eventually_sync(lambda: out.read_text() == "10.0.0.3:80", timeout=20)
    assert second.get("/healthz")[1]["registry"]["connected"]


@pytest.mark.usefixtures("copies")
def test_once_applies_and_ends(tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles) -> None:
    url, write = file_registry
    write("web/a", "10.0.0.1:80")
    out = tmp_path / "out"
    daemon = start_daemon("--registry", url, "--plugin", "copies", "--set", f"copies.path={out}", "--once")
    assert daemon.process.wait(within(20)) == 0
    assert out.read_text() == "10.0.0.1:80"
    daemon = start_daemon(
        "--registry",
        url,
        "--plugin",
        "copies",
        "--once",
        "--set",
        f"copies.path={out}",
        "--set",
        "copies.label=resident",
    )
    assert daemon.process.wait(within(20)) == 2
    assert "--once: what the consumer 'copies' drives ends with the daemon" in daemon.log
    daemon = start_daemon(
        "--registry", url, "--plugin", "copies", "--once", "--set", f"copies.path={out}", "--set", "copies.label=fail"
    )
    assert daemon.process.wait(within(20)) == 1
    assert daemon.log.strip() == "discovery: copies: RuntimeError: told to"


@pytest.mark.usefixtures("copies")
def test_dry_run_shows_and_touches_nothing(tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles) -> None:
    url, write = file_registry
    write("web/a", "10.0.0.1:80")
    out = tmp_path / "out"
    daemon = start_daemon("--registry", url, "--plugin", "copies", "--set", f"copies.path={out}", "--dry-run")
    assert daemon.process.wait(within(20)) == 0
    assert daemon.log == "+ 10.0.0.1:80\n"
    assert not out.exists()
    assert not daemon.run_dir.exists()


@pytest.mark.usefixtures("copies")
def test_an_unreachable_registry_ends_once_but_not_the_daemon(tmp_path: Path, start_daemon: Starter) -> None:
    arguments = ("--registry", f"etcd://127.0.0.1:{free_port()}", "--plugin", "copies")
    arguments += ("--set", f"copies.path={tmp_path / 'out'}")
    once = start_daemon(*arguments, "--once", "--timeout", "1")
    daemon = start_daemon(*arguments)
    assert once.process.wait(within(20)) == 1
    assert len(once.log.splitlines()) == 1
    eventually_sync(lambda: daemon.get("/readyz")[1]["registry"]["stale"], timeout=20)
    assert daemon.get("/readyz")[0] == 503
    assert "Traceback" not in daemon.log
    assert daemon.stop(signal.SIGINT) == 0


@pytest.mark.usefixtures("copies")
def test_a_busy_admin_port_is_an_error_when_configured(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        admin = f"127.0.0.1:{busy.getsockname()[1]}"
        daemon = start_daemon(
            "--registry",
            file_registry[0],
            "--plugin",
            "copies",
            "--set",
            f"copies.path={tmp_path / 'out'}",
            admin=admin,
        )
        assert daemon.process.wait(within(20)) == 2
    assert f"cannot listen on {admin}: address already in use over TCP by " in daemon.log
    assert len(daemon.log.splitlines()) == 1


@pytest.mark.usefixtures("copies")
def test_a_second_daemon_on_one_run_directory_is_refused_by_name(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    arguments = ("--registry", file_registry[0], "--plugin", "copies", "--set", f"copies.path={tmp_path / 'out'}")
    first = start_daemon(*arguments, run_dir=tmp_path / "run")
    eventually_sync(first.is_ready, timeout=20)
    second = start_daemon(*arguments, run_dir=tmp_path / "run")
    assert second.process.wait(within(20)) == 1
    assert f"process {first.process.pid}" in second.log
    assert "'copies'" in second.log
    assert first.is_ready()


@pytest.mark.usefixtures("copies")
def test_systemd_is_told_when_it_is_ready_and_when_it_stops(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(within(20))
        start_daemon.environment["NOTIFY_SOCKET"] = address
        missing = f"etcd://127.0.0.1:{free_port()}"
        daemon = start_daemon("--registry", missing, "--plugin", "copies", "--set", f"copies.path={tmp_path / 'out'}")
        # Ready means set up, not served: an outage of the registry must not get us killed.
        assert manager.recv(4096).startswith(b"READY=1\n")
        daemon.process.send_signal(signal.SIGHUP)
        assert manager.recv(4096).startswith(b"RELOADING=1\n")
        assert manager.recv(4096) == b"READY=1"
        os.kill(daemon.process.pid, signal.SIGTERM)
        assert manager.recv(4096) == b"STOPPING=1"
        assert daemon.process.wait(within(20)) == 0
