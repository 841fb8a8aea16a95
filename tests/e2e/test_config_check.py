"""Point 15: `config check` and `--dry-run` reject what the daemon rejects, and name what they cannot check."""

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from daemons import RecordFiles
from third_party import install

from discovery.testing import free_port, require_program, within

Ran = subprocess.CompletedProcess[str]
Check = Callable[..., Ran]

NO_CERTIFICATE = """
[consumers.edge]
plugin = "haproxy"
services.web.bind = [{{ address = "127.0.0.1:{port}", certificate = "{directory}/missing.pem" }}]
"""
NO_LINE = """
[consumers.edge]
plugin = "haproxy"
services.web = {{ bind = "127.0.0.1:{port}", backend_lines = ["no-such-word here"] }}
"""
TOO_LONG = """
[consumers.{long}]
plugin = "haproxy"
services.web.bind = "127.0.0.1:{port}"
"""
LONG_BIND = """
[consumers.edge]
plugin = "haproxy"
services.web.bind = "/tmp/{bind}"
"""
NO_DIRECTORY = """
[consumers.edge]
plugin = "{plugin}"
{listen} = "{{directory}}/nowhere/web.sock"
"""
NO_SOCKET = """
[consumers.edge]
plugin = "tcpproxy"
listen.web = "unix:{directory}"
"""
TWO_INSTANCES = """
[consumers.proxy]
plugin = "tcpproxy"
listen.web = "127.0.0.1:{{port}}"

[consumers.edge]
plugin = "{plugin}"
{listen} = "{address}:{{port}}"
"""
TWO_WRITERS = """
[consumers.one]
plugin = "template"
files = [{{ template = "builtin:json", file = "{directory}/services.json" }}]

[consumers.other]
plugin = "haproxy"
external = {{ path = "{directory}/x/../services.json", command = ["true"] }}
"""
FAULTS = [
    *(
        (
            TWO_INSTANCES.format(plugin=plugin, listen=listen, address=address),
            "is an address of consumers.proxy as well",
        )
        for plugin, listen in (("tcpproxy", "listen.web"), ("haproxy", "services.web.bind"))
        for address in ("127.0.0.1", "*")
    ),
    (TWO_WRITERS, "consumers.other: {directory}/services.json is a file of consumers.one as well"),
    (NO_DIRECTORY.format(plugin="tcpproxy", listen="listen.web"), "there is no directory {directory}/nowhere"),
    (NO_DIRECTORY.format(plugin="haproxy", listen="services.web.bind"), "{directory}/nowhere is not a directory"),
    (NO_SOCKET, "there is a file that is no socket"),
    (NO_CERTIFICATE, "{directory}/missing.pem"),
    (NO_LINE, "no-such-word"),
    (TOO_LONG, "{long}/master.sock is a path of more than 97 bytes"),
    (LONG_BIND, "bind /tmp/{bind} is a path of more than 97 bytes"),
]
PLUGINS = """
from discovery import ConfigError, Consumer, Inventory, PluginConfig, Provider, Validation, hookimpl

class Options(PluginConfig):
    expected: int = 0

class Judging(Consumer[Options]):
    Config = Options

    async def apply(self, update):
        raise AssertionError

    async def preview(self, update):
        return ""

    async def validate(self, update):
        count = len(list(update.snapshot.backends()))
        return Validation((f"saw {count}",) if count > self.config.expected else (), ("the weather: no window",))

class Raising(Provider[Options]):
    Config = Options

    async def discover(self):
        yield Inventory()

    async def validate(self):
        raise ConfigError("it can never work")


@hookimpl
def discovery_register_consumers(register):
    register("judge", Judging)

@hookimpl
def discovery_register_providers(register):
    register("judge", Raising)
"""


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Runs `discovery` where the plugin `judge` is installed; nothing may be made in the run directory."""
    install(tmp_path / "site", "judge", PLUGINS)
    ours = {key: value for key, value in os.environ.items() if not key.startswith("DISCOVERY_")}
    run_dir = tmp_path / "run"

    def run(*arguments: str, **variables: str) -> Ran:
        env = ours | {"PYTHONPATH": str(tmp_path / "site"), "DISCOVERY_RUN_DIR": str(run_dir)} | variables
        ran = warm.run(*arguments, env=env, timeout=within(100))
        assert "Traceback" not in ran.stderr
        assert not run_dir.exists()
        return ran

    return run


@pytest.fixture
def config(tmp_path: Path, file_registry: RecordFiles) -> Callable[[str], Path]:
    """Writes a configuration beside a registry that can be read."""

    def write(text: str) -> Path:
        path = tmp_path / "discovery.toml"
        path.write_text(f'[registry]\nurl = "{file_registry[0]}"\n{text}')
        return path

    return write


@pytest.mark.parametrize(("text", "fault"), FAULTS)
def test_what_the_daemon_rejects_is_a_fault(
    check: Check, config: Callable[[str], Path], tmp_path: Path, text: str, fault: str
) -> None:
    require_program("haproxy")
    values = {"port": free_port(), "directory": tmp_path, "long": "edge-" + "x" * 90, "bind": "x" * 93}
    path = config(text.format(**values))
    checked = check("config", "check", str(path), "--strict")
    assert (checked.returncode, checked.stdout) == (2, "")
    assert fault.format(**values) in checked.stderr
    assert checked.stderr.startswith("discovery: consumers.")
    dry = check("run", "--config", str(path), "--dry-run")
    assert dry.returncode == 2
    assert fault.format(**values) in dry.stderr
    told = json.loads(check("config", "check", str(path), "--json").stdout)
    assert (told["file"], told["valid"], told["unchecked"]) == (str(path), False, [])
    assert fault.format(**values) in told["faults"][0]
    assert len(told["faults"]) == 1


def test_a_right_configuration_is_checked_whole(
    check: Check, config: Callable[[str], Path], file_registry: RecordFiles
) -> None:
    require_program("haproxy")
    file_registry[1]("web/b1", "127.0.0.1:80")
    path = config(f'[consumers.edge]\nplugin = "haproxy"\nservices.web.bind = "127.0.0.1:{free_port()}"\n')
    checked = check("config", "check", "--config", str(path), "--strict")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, f"{path}: valid; consumers: edge\n", "")
    told = json.loads(check("config", "check", str(path), "--json").stdout)
    lists = {"consumers": ["edge"], "providers": [], "faults": [], "unchecked": [], "announces": []}
    assert told == {"file": str(path), "valid": True, **lists}


def test_sockets_in_the_run_directory_are_right_before_that_is_made(
    check: Check, config: Callable[[str], Path], tmp_path: Path
) -> None:
    require_program("haproxy")
    path = config(
        f'[consumers.edge]\nplugin = "haproxy"\nservices.web.bind = "{tmp_path}/run/web.sock"\n'
        f'[consumers.tcp]\nplugin = "tcpproxy"\nlisten.web = "unix:{tmp_path}/run/tcp/web.sock"\n'
    )
    checked = check("config", "check", str(path), "--strict")
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("binary", ["", 'binary = "/nonexistent/haproxy"'])
def test_haproxies_that_are_external_may_have_the_same_address(
    check: Check, config: Callable[[str], Path], tmp_path: Path, binary: str
) -> None:
    """Each may run in a container, with a network of its own."""
    require_program("haproxy")
    port = free_port()
    tables = (
        f'[consumers.{name}]\nplugin = "haproxy"\nbind = "*:{port}"\n{binary}\n'
        f'external = {{ path = "{tmp_path}/{name}.cfg", command = ["true"] }}\n'
        for name in ("one", "two")
    )
    checked = check("config", "check", str(config("".join(tables))))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("command", [("config", "check"), ("run", "--dry-run", "--config")], ids=" ".join)
def test_a_file_that_would_not_be_overwritten_is_a_fault(
    check: Check, config: Callable[[str], Path], tmp_path: Path, command: tuple[str, ...]
) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text("global\n")
    table = f'external = {{ path = "{file}", command = ["true"] }}\n'
    path = config(f'[consumers.edge]\nplugin = "haproxy"\nbinary = "/nonexistent/haproxy"\n{table}')
    checked = check(*command, str(path))
    assert checked.returncode == 2
    assert f"{file} was not written by discovery" in checked.stderr
    assert "external.adopt = true" in checked.stderr


def test_haproxy_judges_the_records_of_the_registry_too(
    check: Check, config: Callable[[str], Path], file_registry: RecordFiles, tmp_path: Path
) -> None:
    require_program("haproxy")
    template = tmp_path / "own.cfg.j2"
    template.write_text("{% for name in snapshot.services %}no-such-section {{ name }}\n{% endfor %}defaults\n")
    path = config(f'[consumers.edge]\nplugin = "haproxy"\ntemplate = "{template}"\n')
    assert check("config", "check", str(path)).returncode == 0
    file_registry[1]("web/b1", "127.0.0.1:80")
    checked = check("config", "check", str(path))
    assert checked.returncode == 2
    assert "no-such-section" in checked.stderr
    assert check("config", "check", str(path), "--offline").returncode == 0


def test_what_cannot_be_checked_here_is_listed(check: Check, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0)
        path = tmp_path / "discovery.toml"
        port = silent.getsockname()[1]
        path.write_text(
            f'[registry]\nurl = "etcd://127.0.0.1:{port}"\n[consumers.edge]\nplugin = "haproxy"\n'
            'binary = "/nonexistent/haproxy"\n'
            'services.web.bind = [{ address = "*:443", certificate = "/nonexistent/site.pem" }]\n'
        )
        for offline, registry in (
            ((), f"unchecked: with the records of etcd://127.0.0.1:{port}: "),
            (("--offline",), f"unchecked: with the records of etcd://127.0.0.1:{port}: it was not asked"),
        ):
            arguments = ("config", "check", str(path), "--timeout", "1", *offline)
            with pytest.raises(BlockingIOError):
                silent.accept()  # nobody asks
            checked = check(*arguments)
            valid, *unchecked = checked.stdout.splitlines()
            assert (checked.returncode, checked.stderr, valid) == (0, "", f"{path}: valid; consumers: edge")
            assert unchecked[0].startswith(registry)
            assert unchecked[1].startswith("unchecked: consumers.edge: the configuration as HAProxy reads it: ")
            assert "/nonexistent/site.pem: it does not exist on this machine" in unchecked[2]
            assert check(*arguments, "--strict").returncode == 1
            assert len(json.loads(check(*arguments, "--json").stdout)["unchecked"]) == 3
            if not offline:
                while True:  # what was asked so far
                    try:
                        silent.accept()[0].close()
                    except BlockingIOError:
                        break


def test_two_instances_at_one_address_are_a_fault_where_haproxy_is_not_installed_as_well(
    check: Check, config: Callable[[str], Path]
) -> None:
    text = TWO_INSTANCES.format(plugin="haproxy", listen="services.web.bind", address="*").format(port=free_port())
    checked = check("config", "check", str(config(f'{text}binary = "/nonexistent/haproxy"\n')))
    assert checked.returncode == 2
    assert "is an address of consumers.proxy as well" in checked.stderr


def test_every_fault_is_named_in_one_run(check: Check, config: Callable[[str], Path], tmp_path: Path) -> None:
    require_program("haproxy")
    values = {"port": free_port(), "directory": tmp_path}
    path = config(
        NO_CERTIFICATE.format(**values)
        + '[consumers.other]\nplugin = "haproxy"\nbnd = 1\n[consumers.third]\nplugin = "no-such"\n[consumers.fourth]\n'
        + '[consumers.judge]\nplugin = "judge"\n[log]\nlevel = "loud"\n[admn]\n[providers.local]\nplugin = "judge"\n'
    )
    path.write_text(path.read_text().replace('url = "file', 'url = "fil'))
    checked = check("config", "check", str(path), "--json")
    assert checked.returncode == 2
    faults = json.loads(checked.stdout)["faults"]
    for expected in (
        "missing.pem",
        "consumers.other.bnd: unknown key",
        "there is no plugin 'no-such'",
        "consumers.fourth.plugin: is required",
        "log.level: ",
        "admn: unknown key",
        "registry scheme 'fil' is not known",
        "providers.local: it can never work",
    ):
        assert [fault for fault in faults if expected in fault], expected
    dry = check("run", "--dry-run", "--config", str(path))
    assert (dry.returncode, dry.stdout) == (2, "")
    told = [line.removeprefix("discovery: ") for line in dry.stderr.splitlines()]
    assert [line for line in told if not line.startswith("unchecked: ")] == faults
    run = check("run", "--config", str(path))
    assert run.returncode == 2
    for expected in ("consumers.other.bnd", "'no-such'", "consumers.fourth.plugin", "log.level", "admn", "'fil'"):
        assert expected in run.stderr


def test_a_plugin_validates_with_no_records_and_with_those_there_are(
    check: Check, config: Callable[[str], Path], file_registry: RecordFiles
) -> None:
    path = config('[consumers.judge]\nplugin = "judge"\n')
    checked = check("config", "check", str(path))
    assert checked.returncode == 0
    assert checked.stdout.splitlines()[1:] == ["unchecked: consumers.judge: the weather: no window"]
    file_registry[1]("web/b1", "127.0.0.1:80")
    for arguments in (("config", "check", str(path)), ("run", "--dry-run", "--config", str(path))):
        refused = check(*arguments)
        assert refused.returncode == 2
        assert "discovery: consumers.judge: saw 1\n" in refused.stderr
    assert check("config", "check", str(path), "--offline").returncode == 0


def test_the_address_that_a_provider_would_announce_is_told_with_its_reason(
    check: Check, config: Callable[[str], Path], tmp_path: Path
) -> None:
    """Issue 12, A.6."""
    example = Path(__file__).parents[2] / "examples/postgres/discovery_postgres.py"
    table = f'[providers.db]\nplugin = "{example}"\n'
    path = config(f'{table}address = ["10.0.0.5", "fd00::5"]')
    lines = ["db: 10.0.0.5 (the configuration)", "db: fd00::5 (the configuration)"]
    checked = check("config", "check", str(path), "--strict")
    assert checked.stdout.splitlines() == [
        f"{path}: valid; providers: db",
        *(f"announces: providers.{line}" for line in lines),
    ]
    told = json.loads(check("config", "check", str(path), "--json").stdout)
    assert told["announces"] == [f"providers.{line}" for line in lines]
    path = config(f'{table}address = "interface:none"')
    checked = check("config", "check", str(path))
    assert "unchecked: providers.db: address: the interface none has no address, or is missing" in checked.stdout
    path = config(f'{table}address = "interface:"')
    checked = check("config", "check", str(path))
    assert "'interface:' does not name a network interface: write interface:eth1" in checked.stderr


@pytest.mark.parametrize(
    "plugin", ["docker", str(Path(__file__).parents[2] / "examples/postgres/discovery_postgres.py")]
)
def test_a_malformed_variable_is_a_fault_and_an_address_that_is_missing_here_is_none(
    plugin: str, check: Check, config: Callable[[str], Path]
) -> None:
    path = config(f'[providers.it]\nplugin = "{plugin}"')
    checked = check("config", "check", str(path), DISCOVERY_ADDRESS="not an address!")
    assert checked.returncode == 2
    assert "valid" not in checked.stdout
    assert "providers.it: address: DISCOVERY_ADDRESS: 'not an address!' is not an address" in checked.stderr
    absent = check("config", "check", str(path), DISCOVERY_ADDRESS="interface:none")
    assert absent.returncode == 0
    assert "unchecked: providers.it: address: DISCOVERY_ADDRESS: the interface none" in absent.stdout
    own = config(f'[providers.it]\nplugin = "{plugin}"\naddress = "10.0.0.5"')  # the variable does not count
    assert check("config", "check", str(own), DISCOVERY_ADDRESS="not an address!").returncode == 0
