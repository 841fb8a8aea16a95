"""Commands that other distributions bring, and what their authors import."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from hypothesis import given
from hypothesis import strategies as st

from discovery.cli import main
from discovery.commands import LINK_ADDRESS, LINK_PORT, drop_in_registry
from discovery.errors import ConfigError
from discovery.registry import RegistryURL
from discovery.testing import eventually_sync, within

DISCOVERY = (sys.executable, "-m", "discovery")

GREETING = """
import sys
from typing import Annotated
import typer

def greet(name: Annotated[str, typer.Argument(help="Whom.")], loud: bool = False) -> int:
    '''Greet somebody.'''
    print("HELLO" if loud else "hello", name)
    return 3
"""
SERVING = """
from discovery import Backend, Candidate, Inventory, PluginConfig, Provider, hookimpl
from discovery.commands import RegistryOption, RunDirOption, drop_in_registry, serve
import asyncio

class Config(PluginConfig):
    port: int

class Fixed(Provider[Config]):
    Config = Config

    async def discover(self):
        yield Inventory((Candidate(Backend("web", "b1", "10.0.0.1", self.config.port)),))
        await asyncio.Event().wait()

@hookimpl
def discovery_register_providers(register):
    register("fixed", Fixed)

def command(port: str, registry: RegistryOption = None, run_dir: RunDirOption = None) -> int:
    table = {"plugin": "fixed", "port": port}
    return serve(registry=drop_in_registry(registry), providers={"fixed": table}, run_dir=run_dir)
"""

INTERRUPTED = """
import asyncio
import os
import signal

async def work():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled")
        raise

def command() -> None:
    asyncio.run(work())
"""

Install = Callable[..., None]
Discovery = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """`install(distribution, module's source, "entry points")` makes a distribution that `discovery` can see."""

    def install(distribution: str, source: str, *points: str, group: str = "discovery.commands") -> None:
        module = distribution.replace("-", "_")
        info = tmp_path / "site" / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        text = "".join(f"{point.replace('=', f' = {module}:')}\n" for point in points)
        more = f"[discovery]\nfixed = {module}\n" if "hookimpl" in source else ""
        (info / "entry_points.txt").write_text(f"[{group}]\n{text}{more}")
        (tmp_path / "site" / f"{module}.py").write_text(source)

    return install


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("DISCOVERY_")}
    return {**ours, "PYTHONPATH": str(tmp_path / "site"), "DISCOVERY_RUN_DIR": str(tmp_path / "run")}


@pytest.fixture
def discovery(environment: dict[str, str]) -> Discovery:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return warm.run(*arguments, env=environment | variables, timeout=within(60))

    return run


@pytest.mark.parametrize("form", ["def", "async def"])
def test_a_command_from_elsewhere_is_like_one_of_ours(form: str, install: Install, discovery: Discovery) -> None:
    install("third-party", GREETING.replace("def", form), "greet=greet")
    ran = discovery("greet", "you", "--loud")
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "HELLO you\n", "")
    help_ = discovery("greet", "-h")
    assert (help_.returncode, help_.stderr) == (0, "")
    assert help_.stdout.startswith("Usage: discovery greet ")
    assert "Greet somebody." in help_.stdout
    wrong = discovery("greet")
    assert wrong.returncode == 2
    assert wrong.stderr == "discovery: Missing argument 'NAME'; see `discovery greet --help`\n"


def test_sigint_cancels_the_coroutine_of_a_drop_in_command(install: Install, environment: dict[str, str]) -> None:
    install("third-party", INTERRUPTED, "interrupted=command")
    ran = subprocess.run(
        (*DISCOVERY, "interrupted"), env=environment, capture_output=True, text=True, timeout=within(60), check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "cancelled\n", "")


def test_a_list_of_commands_imports_none_of_them(install: Install, discovery: Discovery, tmp_path: Path) -> None:
    mark = tmp_path / "imported"
    install("third-party", f"open({str(mark)!r}, 'w').close()\n{GREETING}", "greet=greet")
    listed = discovery("--help")
    assert listed.returncode == 0
    (line,) = (line.split() for line in listed.stdout.splitlines() if line.startswith("  greet "))
    assert line == ["greet", "From", "third-party", "1.0."]
    assert discovery("services", "--registry", "memory://").returncode == 0
    complete = {"_DISCOVERY_COMPLETE": "complete_bash", "COMP_WORDS": "discovery gre", "COMP_CWORD": "1"}
    assert discovery(**complete).stdout.split() == ["greet"]
    assert not mark.exists()
    options = complete | {"COMP_WORDS": "discovery greet --l", "COMP_CWORD": "2"}
    assert discovery(**options).stdout.split() == ["--loud"]
    assert mark.exists()


@pytest.mark.parametrize(
    ("source", "point", "reason"),
    [
        ("import no_such_module_anywhere", "greet=greet", "No module named 'no_such_module_anywhere'"),
        ("", "greet=greet", "has no attribute 'greet'"),
        ("raise SystemExit('no licence\\nat all')", "greet=greet", "SystemExit: no licence at all"),
        ("greet = 5", "greet=greet", "of third-party 1.0 cannot be loaded"),
        ("def greet(x: int | str): pass", "greet=greet", "of third-party 1.0 cannot be loaded"),
    ],
)
def test_a_broken_one_is_a_line_and_hurts_itself_alone(
    source: str, point: str, reason: str, install: Install, discovery: Discovery
) -> None:
    install("third-party", source, point)
    for arguments in (("greet", "you"), ("greet", "--help")):
        ran = discovery(*arguments)
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
        assert reason in ran.stderr
        assert "'greet'" in ran.stderr
    assert "\n  greet " in discovery("--help").stdout
    complete = {"_DISCOVERY_COMPLETE": "complete_bash", "COMP_WORDS": "discovery greet --l", "COMP_CWORD": "2"}
    completed = discovery(**complete)
    assert (completed.stdout.strip(), completed.stderr) == ("", "")


def test_two_that_claim_one_name_are_refused_and_both_named(install: Install, discovery: Discovery) -> None:
    install("third-party", GREETING, "greet=greet")
    install("fourth-party", GREETING, "greet=greet")
    ran = discovery("greet", "you")
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert "'greet' is claimed by 2 distributions, fourth-party 1.0 and third-party 1.0: remove one" in ran.stderr
    assert "From fourth-party 1.0 and third-party 1.0." in discovery("--help").stdout


def test_our_own_commands_win(install: Install, discovery: Discovery) -> None:
    install("third-party", GREETING, "services=greet")
    assert discovery("services", "--registry", "memory://").stderr == "discovery: no backends in memory://\n"
    assert discovery("--help").stdout.count("\n  services ") == 1


def test_serve_runs_a_configuration_with_our_exit_codes(
    install: Install, discovery: Discovery, environment: dict[str, str], tmp_path: Path
) -> None:
    install("third-party", SERVING, "fix=command")
    registry = tmp_path / "registry"
    registry.mkdir()
    arguments = ["--registry", f"file://{registry}", "--run-dir", str(tmp_path / "run")]
    log_path = tmp_path / "log"
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            [*DISCOVERY, "--log-format", "json", "fix", "80", *arguments], env=environment, stderr=log
        ) as run,
    ):
        record = registry / "web" / "b1"
        eventually_sync(lambda: json.loads(record.read_text())["port"] == 80, timeout=30)
        eventually_sync(lambda: "registered" in log_path.read_text(), timeout=30)  # logged after the record is there
        run.terminate()
        assert run.wait(within(30)) == 0
        assert not record.exists()
    events = [json.loads(line)["event"] for line in log_path.read_text().splitlines()]
    assert "registered" in events
    assert not any("admin" in event or "9901" in event for event in events)

    wrong = discovery("fix", "eighty", *arguments)
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
    assert "command line: providers.fixed.port: " in wrong.stderr
    half = discovery("fix", "80", ETCD_PORT_10000_TCP_PORT="2379")
    assert (half.returncode, half.stderr.count("\n")) == (2, 1)
    assert LINK_ADDRESS in half.stderr


@pytest.mark.parametrize(
    ("given", "link", "url"),
    [
        ("file:///x", {LINK_ADDRESS: "nonsense"}, "file:///x"),
        (None, {}, "etcd://127.0.0.1:2379"),
        ("", {LINK_ADDRESS: "", LINK_PORT: ""}, "etcd://127.0.0.1:2379"),
        (None, {LINK_ADDRESS: "172.17.0.2", LINK_PORT: "10000"}, "etcd://172.17.0.2:10000"),
        (None, {LINK_ADDRESS: "fd00::2", LINK_PORT: "10000"}, "etcd://[fd00::2]:10000"),
        (None, {LINK_ADDRESS: "etcd.example", LINK_PORT: "4001"}, "etcd://etcd.example:4001"),
    ],
)
def test_the_registry_is_as_given_then_as_linked_then_the_default(
    given: str | None, link: dict[str, str], url: str
) -> None:
    assert drop_in_registry(given, link) == url


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("172.17.0.2", ""),
        ("", "10000"),
        ("172.17.0.2", "0"),
        ("172.17.0.2", "65536"),
        ("172.17.0.2", "http"),
        ("0.0.0.0", "10000"),
        ("tcp://172.17.0.2", "10000"),
        ("a,b", "1"),
        ("a@b", "1"),
        ("x/y", "1"),
    ],
)
def test_link_variables_that_name_no_registry_are_a_clear_error(address: str, port: str) -> None:
    with pytest.raises(ConfigError, match=r"ETCD_PORT_10000_TCP_.*--registry or DISCOVERY_REGISTRY"):
        drop_in_registry(None, {LINK_ADDRESS: address, LINK_PORT: port})


LINKED = {"ETCD_NAME": "/registrar/etcd"}
"""What Docker sets for `--link amb:etcd` if no port of the linked container is exposed."""


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "the linked container exposes no port"),
        ({"ETCD_PORT_2379_TCP_ADDR": "172.17.0.2", "ETCD_PORT_80_TCP_ADDR": "x"}, "exposes only the ports 80, 2379"),
    ],
)
def test_a_link_without_the_port_of_the_registry_is_an_error_and_not_the_default(
    more: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        drop_in_registry(None, LINKED | more)
    assert told in str(caught.value)
    assert "--expose 10000" in str(caught.value)
    assert "--registry or DISCOVERY_REGISTRY" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_without_the_port_of_the_registry_is_no_error_if_the_registry_is_named(tmp_path: Path) -> None:
    file = tmp_path / "discovery.toml"
    file.write_text('[registry]\nurl = "etcd://127.0.0.1:2379"\n')
    assert drop_in_registry(None, LINKED | {"DISCOVERY_CONFIG": str(file)}) == "etcd://127.0.0.1:2379"
    assert drop_in_registry("file:///x", LINKED) == "file:///x"
    linked = {LINK_ADDRESS: "172.17.0.2", LINK_PORT: "10000"}
    assert drop_in_registry(None, LINKED | linked) == "etcd://172.17.0.2:10000"
    assert drop_in_registry(None, {"ETCD_NAME": "infra-1"}) == "etcd://127.0.0.1:2379"  # etcd's own variable
    file.write_text("run_dir = '/x'\n")
    with pytest.raises(ConfigError, match="exposes no port"):
        drop_in_registry(None, LINKED | {"DISCOVERY_CONFIG": str(file)})


def test_a_drop_in_command_refuses_a_link_without_the_port(
    install: Install, discovery: Discovery, tmp_path: Path
) -> None:
    install("third-party", SERVING.replace("drop_in_registry(registry)", "registry"), "fix=command")
    told = discovery("fix", "80", **LINKED)
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "exposes no port" in told.stderr
    wrong = discovery("fix", "x", DISCOVERY_REGISTRY=f"file://{tmp_path}", **LINKED)
    assert "command line: providers.fixed.port: " in wrong.stderr


@given(address=st.text(max_size=12), port=st.text("0123456789-: ", max_size=6) | st.text(max_size=4))
def test_link_variables_are_one_member_or_an_error(address: str, port: str) -> None:
    try:
        url = drop_in_registry(None, {LINK_ADDRESS: address, LINK_PORT: port})
    except ConfigError:
        return
    parsed = RegistryURL.parse(url)
    assert (parsed.scheme, len(parsed.endpoints), parsed.path, parsed.username) == ("etcd", 1, "", None)
    assert not parsed.options


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["c", "80"], "Missing argument 'SERVICE'"),
        (["c", "0", "web"], "the port '0'"),
        (["c", "80/udp", "web"], "another protocol than TCP"),
        (["c", "http", "web"], "the port 'http'"),
        (["c*", "80", "web"], "'c*' is not the name or id of a container"),
        (["c", "80", "we b"], "'we b'"),
        (["c", "80", "web", "x"], "'x' is not KEY=VALUE"),
        (["c", "80", "web", "host=10.0.0.1"], "choose the address with --host"),
        (["c", "80", "web", "port=1"], "'port' is a field of the record itself"),
        (["c", "80", "web", "weight=1"], "--weight"),
        (["c", "80", "web", "owner=me"], "--owner"),
        (["c", "80", "web", "ttl=1"], "--ttl"),
        (["c", "80", "web", "state=draining"], "'state' is a field"),
        (["c", "80", "web", "labels=1"], "'labels' is a field"),
        (["c", "80", "web", "a b=1"], "'a b'"),
        (["c", "80", "web", "a=1", "a=2"], "the key 'a' is given twice"),
        (["c", "80", "web", "a=\x1b"], "'a'"),
        (["c", "80", "web", "--host", "0.0.0.0"], "'0.0.0.0' is not an address that one can connect to"),
        (["c", "80", "web", "--host", "bad-"], "'bad-'"),
        (["c", "80", "web", "--weight", "257"], "'257' is not a whole number from 0 to 256"),
        (["c", "80", "web", "--ttl", "0"], "--ttl"),
        (["c", "80", "web", "--owner", "a\nb"], "owner"),
        (["c", "80", "web", "--check", "tcp", "--check-path", "/x"], "--check-path requires --check http"),
        (["c", "80", "web", "--check-path", "x"], "--check-path 'x'"),
        (["c", "80", "web", "--registry", "nonsense"], "'nonsense' is not a URL"),
    ],
)
def test_a_wrong_argument_of_register_container_is_a_usage_error(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("DISCOVERY_REGISTRY", raising=False)
    assert main(["register-container", *arguments, "--run-dir", str(tmp_path)]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert reason in err
