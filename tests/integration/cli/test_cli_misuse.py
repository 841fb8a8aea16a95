"""The command line in odd surroundings: closed and full streams, narrow encodings, signals while it loads."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm

from discovery.cli import main
from discovery.testing import eventually_sync, within

from .conftest import Start, World

DISCOVERY = [sys.executable, "-m", "discovery"]
FULL = "discovery: stdout cannot be written: No space left on device\n"


@pytest.mark.costly
@pytest.mark.parametrize("arguments", [["--help"], ["services", "--json"], ["watch", "--json"], ["plugins"]])
def test_a_stdout_that_is_full_is_told_in_a_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*DISCOVERY, *arguments],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={"DISCOVERY_REGISTRY": "memory://"},
        )
    told = [line for line in done.stderr.splitlines(keepends=True) if "is being imported for" not in line]
    assert (done.returncode, told) == (1, [FULL])  # on a busy machine also that an import takes long


@pytest.mark.costly
def test_closed_streams_do_not_matter_and_nothing_else_gets_their_numbers(file_world: World, tmp_path: Path) -> None:
    closed = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *DISCOVERY]
    assert subprocess.run([*closed, "services", "--registry", file_world.url], check=False).returncode == 0
    assert subprocess.run([*closed, "nonsense"], check=False).returncode == 2
    arguments = ["register", "web", "127.0.0.1:1", "--registry", file_world.url, "--run-dir", str(tmp_path / "run")]
    register = subprocess.Popen([*closed, *arguments])
    try:
        listing = [*DISCOVERY, "watch", "--json", "--registry", file_world.url]
        with subprocess.Popen(listing, stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout is not None
            while not json.loads(watch.stdout.readline())["added"]:
                pass
            watch.terminate()
        streams = {(Path(f"/proc/{register.pid}/fd") / str(number)).resolve() for number in range(3)}
        assert streams == {Path("/dev/null")}
    finally:
        register.terminate()
        assert register.wait(within(15)) == 0


@pytest.mark.costly
def test_what_an_encoding_cannot_express_is_escaped_and_json_stays_json(file_world: World) -> None:
    file_world.put("web/b1", '{"host": "10.0.0.1", "port": 80, "zone": "Z\u00fcrich"}')
    narrow = {"PYTHONIOENCODING": "ascii", "DISCOVERY_REGISTRY": file_world.url}
    text = subprocess.run([*DISCOVERY, "services"], capture_output=True, env=narrow, check=True)
    assert b"zone=Z\\xfcrich" in text.stdout
    listing = subprocess.run([*DISCOVERY, "services", "--json"], capture_output=True, env=narrow, check=True)
    assert json.loads(listing.stdout)["services"]["web"][0]["labels"] == {"zone": "Z\u00fcrich"}


def test_ctrl_c_while_it_loads_shows_nothing() -> None:
    script = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from discovery.cli import main
from discovery.testing import eventually_sync
sys.exit(main(["services"]))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("arguments", [["services"], ["plugins"], ["register", "web", "127.0.0.1:1"]])
@pytest.mark.parametrize("module", ["typer", "pydantic.main", "discovery.hosting.loading"])
def test_ctrl_c_ends_also_what_swallows_it_while_it_loads(module: str, arguments: list[str], tmp_path: Path) -> None:
    script = f"""
import os, signal, sys

class Swallows:
    def find_spec(self, name, *_):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                pass

sys.meta_path.insert(0, Swallows())
from discovery.cli import main
sys.exit(main({arguments!r}))
"""
    environment = {**os.environ, "DISCOVERY_REGISTRY": f"file://{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, env=environment, timeout=within(60)
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_request_to_stop_that_comes_twice_still_withdraws(start: Start, file_world: World) -> None:
    register = start("register", "web", "127.0.0.1:1", "--registry", file_world.url)
    register.line()
    register.process.send_signal(signal.SIGINT)
    assert register.stop(signal.SIGTERM) == 0
    listing = warm.run("services", "--json", "--registry", file_world.url, env=os.environ, timeout=within(100))
    assert listing.returncode == 0, listing.stderr
    assert json.loads(listing.stdout)["services"] == {}


def test_a_short_timeout_still_tells_why(start: Start) -> None:
    register = start("register", "web", "127.0.0.1:1", "--timeout", "0.3", "--registry", "etcd://127.0.0.1:1")
    assert register.end() == 1
    assert "within 0.3 s: etcd 127.0.0.1:1: connection refused" in register.stderr


@pytest.mark.parametrize(
    "url",
    [
        "joe:SECRET@10.0.0.1",
        "etcd://joe:SECRET/x@10.0.0.1",
        "etcd://joe:SECRET?x@10.0.0.1",
        "etcd://joe:SECRET#x@10.0.0.1",
        "etcd://joe:SECRET\u2028x@10.0.0.1",
        "etcd://joe:SECRET@10.0.0.1:99999",
        "etcd://joe:SECRET@10.0.0.1?password=SECRET",
        "etcds://joe:SECRET@10.0.0.1?ca=/nonexistent",
        "etcd://:SECRET@10.0.0.1",
        "file://joe:SECRET@x/y",
        "nonsense://joe:SECRET@x/y",
    ],
)
def test_no_part_of_a_password_is_in_a_complaint(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["services", "--registry", url]) == 2
    _, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert "SECRET" not in err


def test_bytes_that_are_no_text_are_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["services", "--registry", "etcd://\udcff:1"]) == 2
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "arguments", "fault"),
    [
        ("log = 5", ["--plugin", "haproxy"], "log: must be a table, not a whole number (got 5)"),
        ("[consumers]\nedge = 5", ["--set", "edge.x=1"], "consumers.edge is no table"),
        ('[consumers.edge]\nplugin = "haproxy"\nservices.web = 1', [], "consumers.edge.services.web: must be a table"),
        (
            "admin = '127.0.0.1:0'",
            ["--plugin", "haproxy"],
            "admin: '127.0.0.1:0' is not HOST:PORT with a port from 1 to 65535",
        ),
        ("[registry]\nserver_name = 'x'", ["--plugin", "haproxy"], "the option 'server_name' is for TLS"),
        ("", ["--plugin", "haproxy", "--admin", "x"], "c.toml and command line: admin: 'x'"),
        ('registry = "etcd://x"', ["--plugin", "haproxy"], "registry: must be a table"),
    ],
)
def test_faults_of_a_configuration(
    file: str,
    arguments: list[str],
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DISCOVERY_LOG_LEVEL", "info")
    path = tmp_path / "c.toml"
    path.write_text(file)
    assert main(["run", "--config", str(path), *arguments]) == 2
    _, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert fault in err


def test_a_fault_in_the_cores_options_hides_none_in_the_plugins(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        '[consumers.edge]\nplugin = "haproxy"\nquiet_period = -1\nmaxcon = 1\n'
        '[providers.here]\nplugin = "apache"\nttl = 0\nforce = "x"\nzzz = 1\n'
    )
    assert main(["run", "--config", str(path)]) == 2
    _, err = capfd.readouterr()
    told = [line.split(": ")[2] for line in err.splitlines()]
    keys = ["consumers.edge.quiet_period", "providers.here.ttl", "providers.here.force", "consumers.edge.maxcon"]
    assert sorted(told) == sorted([*keys, "providers.here.zzz"])


@pytest.mark.parametrize("command", [["config", "check"], ["run", "--dry-run", "--config"]])
@pytest.mark.parametrize(
    "registry", ['[registry]\nurl = "file:///r"\nusr = "a"', '[registry]\nurl = "x"', '[registri]\nurl = "file:///r"']
)
def test_in_place_of_a_registry_that_is_at_fault_no_other_one_is_asked(
    registry: str, command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'{registry}\n[consumers.edge]\nplugin = "haproxy"\nbind = "127.0.0.1:8080"\n')
    began = time.monotonic()
    assert main([*command, str(path)]) == 2
    assert time.monotonic() - began < within(2.5)  # an etcd that is away is waited for 3 s
    told = "".join(capfd.readouterr())
    assert "etcd" not in told.replace("etcd://HOST", "")
    assert "it was not asked, since its configuration is at fault" in told


def test_a_number_of_too_many_digits_is_a_fault_of_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"registry.url = {'9' * 5000}\n")
    assert main(["run", "--config", str(path)]) == 2
    assert "c.toml: is not valid TOML: a whole number has too many digits" in capfd.readouterr().err


def test_an_empty_variable_is_an_unset_one(start: Start, file_world: World) -> None:
    names = ("REGISTRY", "LOG_LEVEL", "LOG_FORMAT", "DEBUG", "CONFIG", "ADMIN", "STATE_DIR")
    empty = {f"DISCOVERY_{name}": "" for name in names}
    register = start("register", "web", "127.0.0.1:1", "--registry", file_world.url, **empty)
    assert register.line().startswith("registered")
    dry = start("run", "--plugin", "haproxy", "--registry", file_world.url, "--dry-run", **empty)
    assert dry.end() == 0
    assert dry.stderr == ""


def test_a_file_that_cannot_be_made_is_named(start: Start) -> None:
    completion = start(
        "--install-completion", "bash", HOME="/proc/nonexistent", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert completion.end() == 1
    assert completion.stderr.startswith("discovery: /proc/nonexistent")


def test_a_log_beside_a_watched_file_does_not_feed_itself(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"  # where stderr is written, too
    config.write_text('admin = "off"\n[consumers.x]\nplugin = "haproxy"\n[registry]\nurl = "memory://"\n')
    run = start("--log-level", "debug", "run", "--config", str(config), "--state-dir", str(tmp_path / "state"))
    eventually_sync(lambda: "running" in run.stderr, timeout=30)
    config.write_text(config.read_text() + "# later\n")
    eventually_sync(lambda: "configuration reloaded" in run.stderr, timeout=30)
    assert run.stop() == 0
    assert "InotifyEvent" not in run.stderr
