"""Point 16: every command has its settings from one source: the command line, else the environment, else the file."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from third_party import install

from discovery.testing import cannot_run, eventually_sync, free_port, require_program, within

from .conftest import END, Start

Ran = subprocess.CompletedProcess[str]
Run = Callable[..., Ran]

DISCOVERY = [sys.executable, "-m", "discovery"]
NOT_ALMIGHTY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
FIXED = """
import asyncio
from discovery import Consumer, PluginConfig, hookimpl

class Idle(Consumer[PluginConfig]):
    async def apply(self, update):
        self.context.log.info("applied", services=sorted(update.snapshot.services))

@hookimpl
def discovery_register_consumers(register):
    register("idle", Idle)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One without settings, in which the plugin `idle` is installed."""
    install(tmp_path / "site", "idle", FIXED)
    ours = {key: value for key, value in os.environ.items() if not key.startswith("DISCOVERY_")}
    return ours | {"PYTHONPATH": str(tmp_path / "site"), "DISCOVERY_STATE_DIR": str(tmp_path / "state")}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def run(*arguments: str, under: tuple[str, ...] = (), **variables: str) -> Ran:
        env, timeout = environment | variables, within(100)
        if not under:
            return warm.run(*arguments, env=env, timeout=timeout)
        command = [*under, *DISCOVERY, *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=timeout)

    return run


@pytest.fixture
def registries(tmp_path: Path) -> dict[str, str]:
    """Three registries, each with a service of its own name."""
    for name in ("flag", "variable", "file"):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "b1").write_text("10.0.0.1:80")
    return {name: f"file://{tmp_path / name}" for name in ("flag", "variable", "file")}


@pytest.fixture
def config(tmp_path: Path, registries: dict[str, str]) -> Path:
    path = tmp_path / "discovery.toml"
    path.write_text(
        f'run_dir = "{tmp_path}/run"\n[registry]\nurl = "{registries["file"]}"\n[log]\nformat = "json"\n'
        '[consumers.edge]\nplugin = "idle"\n'
    )
    return path


def services(ran: Ran) -> list[str]:
    assert ran.returncode == 0, ran.stderr
    return list(json.loads(ran.stdout)["services"])


def in_place_of_etc(tmp_path: Path, config: Path) -> tuple[str, ...]:
    """A command that runs another where `config` is /etc/discovery/discovery.toml, and nobody else sees it."""
    require_program("unshare", wheel=False)
    if os.geteuid() != 0:
        cannot_run("a file in /etc that nobody else sees takes root")
    etc = tmp_path / "etc"
    (etc / "discovery").mkdir(parents=True)
    for name in ("passwd", "group", "hosts", "nsswitch.conf", "ld.so.cache"):
        if (path := Path("/etc", name)).exists():
            shutil.copy(path, etc / name)
    shutil.copy(config, etc / "discovery/discovery.toml")
    return ("unshare", "--mount", "sh", "-c", f'mount --bind {etc} /etc && exec "$@"', "sh")


def test_the_flag_goes_before_the_variable_and_the_variable_before_the_file(
    run: Run, config: Path, registries: dict[str, str]
) -> None:
    by_file = ("services", "--json", "--config", str(config))
    assert services(run(*by_file)) == ["file"]
    assert services(run("services", "--json", DISCOVERY_CONFIG=str(config))) == ["file"]
    assert services(run(*by_file, DISCOVERY_REGISTRY=registries["variable"])) == ["variable"]
    flag = ("--registry", registries["flag"])
    assert services(run(*by_file, *flag, DISCOVERY_REGISTRY=registries["variable"])) == ["flag"]


@pytest.mark.costly
def test_the_default_file_is_one_path_for_every_command(run: Run, config: Path, tmp_path: Path) -> None:
    under = in_place_of_etc(tmp_path, config)
    assert services(run("services", "--json", under=under)) == ["file"]
    assert services(run("services", "--json", "--config", os.devnull, "-r", "memory://", under=under)) == []
    planned = run("run", "--dry-run", under=under)
    assert "edge: the plugin 'idle' cannot show" in planned.stderr  # its instance is run, and has no preview
    beside = run("run", "--plugin", "idle", "--dry-run", under=under)
    assert "idle: the plugin 'idle' cannot show" in beside.stderr
    assert "edge" not in beside.stderr
    assert "valid; consumers: edge" in run("config", "check", under=under).stdout


def test_watch_and_register_have_the_file_too(start: Start, config: Path, tmp_path: Path) -> None:
    watch = start("watch", "--json", "--config", str(config))
    assert [each["service"] for each in watch.json()["added"]] == ["file"]
    register = start("register", "web", "127.0.0.1:1", DISCOVERY_CONFIG=str(config), DISCOVERY_RUN_DIR="")
    assert register.line().startswith("registered web/127.0.0.1:1")
    assert [each["service"] for each in watch.json()["added"]] == ["web"]
    assert list((tmp_path / "run").glob("register-*.lock"))
    command = ["--", "sh", "-c", "echo runs; exec sleep 1000"]
    child = start("register", "own", "127.0.0.1:2", "--check", "none", "--config", str(config), *command)
    assert child.line() == "runs"
    assert [each["service"] for each in watch.json()["added"]] == ["own"]
    assert register.stop() == 0
    child.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        ("ambassador", "web", "{port}", "--listen", "127.0.0.1"),
        ("register-container", "no-such-container", "80", "web"),
    ],
)
def test_drop_in_commands_have_registry_log_and_directories_of_the_file(
    start: Start, config: Path, registries: dict[str, str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    given = [argument.format(port=free_port()) for argument in arguments]
    started = start(*given, DISCOVERY_CONFIG=str(config), DISCOVERY_RUN_DIR="", DOCKER_HOST=f"unix://{tmp_path}/none")
    eventually_sync(lambda: '"running"' in started.stderr, timeout=60)
    logged = [json.loads(line) for line in started.stderr.splitlines()]
    assert [each["registry"] for each in logged if each["event"] == "running"] == [registries["file"]]
    assert list((tmp_path / "run").iterdir())
    assert started.stop() == 0


def test_connections_asks_the_admin_endpoint_of_the_file(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "discovery.toml"
    port = free_port()
    config.write_text(f'admin = "127.0.0.1:{port}"\n')
    asked = run("connections", "--config", str(config))
    assert (asked.returncode, asked.stderr.count("\n")) == (1, 1)
    assert f"no daemon answers at 127.0.0.1:{port}" in asked.stderr
    config.write_text('admin = "off"\n')
    off = run("connections", DISCOVERY_CONFIG=str(config))
    assert (off.returncode, off.stderr.count("\n")) == (2, 1)
    assert f"the admin endpoint is off in {config}" in off.stderr


def test_a_plugin_on_the_command_line_has_the_instances_of_a_file_only_by_the_flag(run: Run, config: Path) -> None:
    def named(*arguments: str, **variables: str) -> set[str]:
        ran = run("run", "--dry-run", *arguments, **variables)
        return {line.split(": ")[1] for line in ran.stderr.splitlines() if "cannot show" in line}

    by_variable = {"DISCOVERY_CONFIG": str(config)}
    assert named("--plugin", "idle", **by_variable) == {"idle"}
    assert named("--plugin", "idle", "--config", str(config)) == {"edge", "idle"}
    assert named(**by_variable) == {"edge"}


@pytest.mark.costly
def test_a_file_or_a_password_that_may_not_be_read_is_named(run: Run, config: Path, tmp_path: Path) -> None:
    config.chmod(0)
    for arguments in (("services",), ("run", "--plugin", "idle"), ("connections",), ("config", "check")):
        refused = run(*arguments, under=tuple(NOT_ALMIGHTY), DISCOVERY_CONFIG=str(config))
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert f"{config}: cannot be read: Permission denied" in refused.stderr
    missing = run("services", "--config", str(tmp_path / "missing.toml"))
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "missing.toml: cannot be read: No such file" in missing.stderr
    secret = tmp_path / "password"
    secret.write_text("x")
    secret.chmod(0)
    other = tmp_path / "other.toml"
    other.write_text(f'[registry]\nurl = "etcd://127.0.0.1:1"\nusername = "u"\npassword_file = "{secret}"\n')
    refused = run("services", "--config", str(other), under=tuple(NOT_ALMIGHTY))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert f"{secret} cannot be read: permission denied" in refused.stderr


@pytest.mark.costly
def test_a_default_file_that_may_not_be_read_is_named(run: Run, config: Path, tmp_path: Path) -> None:
    under = in_place_of_etc(tmp_path, config)
    (tmp_path / "etc/discovery/discovery.toml").chmod(0)
    refused = run("services", under=(*under, *NOT_ALMIGHTY))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "/etc/discovery/discovery.toml: cannot be read: Permission denied" in refused.stderr
    (tmp_path / "etc/discovery").chmod(0)
    assert run("services", under=(*under, *NOT_ALMIGHTY)).stderr == refused.stderr


def test_an_unknown_key_of_the_file_never_means_another_registry(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "discovery.toml"
    config.write_text('[registri]\nurl = "file:///srv/services"\n')
    refused = run("services", DISCOVERY_CONFIG=str(config))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "registri: unknown key; did you mean 'registry'?" in refused.stderr


def test_an_empty_answer_names_the_registry_that_was_asked(run: Run, start: Start, tmp_path: Path) -> None:
    config = tmp_path / "discovery.toml"
    (tmp_path / "empty").mkdir()
    config.write_text(f'[registry]\nurl = "file://{tmp_path}/empty"\n')
    empty = run("services", DISCOVERY_CONFIG=str(config))
    assert (empty.returncode, empty.stderr) == (0, f"discovery: no backends in file://{tmp_path}/empty\n")
    one = run("services", "web", DISCOVERY_CONFIG=str(config))
    assert one.stderr == f"discovery: no backends of 'web' in file://{tmp_path}/empty\n"
    watch = start("watch", DISCOVERY_CONFIG=str(config))
    assert watch.line().endswith(f": 0 backends in file://{tmp_path}/empty")
    assert watch.stop() == 0
    assert watch.line() == END


def test_a_variable_that_overrides_the_file_is_logged_at_the_start(
    start: Start, environment: dict[str, str], config: Path, registries: dict[str, str], tmp_path: Path
) -> None:
    config.write_text(f'state_dir = "/nonexistent"\nadmin = "off"\n{config.read_text()}')
    variables = {"DISCOVERY_REGISTRY": registries["variable"], "DISCOVERY_STATE_DIR": str(tmp_path / "state")}
    variables["DISCOVERY_RUN_DIR"] = f"{tmp_path}/run"  # as in the file, so that nothing is overridden
    run = start("run", "--config", str(config), **(environment | variables))
    eventually_sync(lambda: '"applied"' in run.stderr, timeout=60)
    assert run.stop() == 0
    logged = [json.loads(line) for line in run.stderr.splitlines()]
    overridden = {each["key"]: each["variable"] for each in logged if "overrides" in each["event"]}
    assert overridden == {"registry": "DISCOVERY_REGISTRY", "state_dir": "DISCOVERY_STATE_DIR"}
    assert [each["services"] for each in logged if each["event"] == "applied"] == [["variable"]]
