"""Exit codes and messages: one line that names the thing and the way out, and never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from discovery.cli import main
from discovery.cli.group import OWN
from discovery.errors import ConfigError, DiscoveryError, PluginError, RegistryUnavailableError
from discovery.testing import within

RULE = "a name has 1-128 letters, digits, '_', '.' and '-', and must start with a letter, a digit or '_'"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nonsense"], "'nonsense'"),
        (["services", "--nonsense"], "--nonsense; see `discovery services --help`"),
        (["xds"], "Missing argument 'ACTION'. Choose from: bootstrap; see `discovery xds --help`"),
        (["wait"], "Missing argument 'SERVICE'; see `discovery wait --help`"),
        (["deregister"], "Missing argument 'SERVICE'; see `discovery deregister --help`"),
        (["deregister", "web"], "Missing argument 'ID'; see `discovery deregister --help`"),
        (["explain"], "Missing argument 'SERVICE[/ID]'; see `discovery explain --help`"),
        (["plugins", "new"], "Missing argument 'NAME'; see `discovery plugins new --help`"),
        (["explain", "web/"], "'web/' is not SERVICE[/ID]"),
        (["explain", "a/b/c"], "'a/b/c' is not SERVICE[/ID]"),
        (["explain", "/b"], "'/b' is not SERVICE[/ID]"),
        (["services", "a", "b"], "(b)"),
        (["services", "--timeout", "x"], "--timeout"),
        (["services", "--registry", "nonsense"], "write etcd://HOST:PORT or file:///DIRECTORY"),
        (["watch", "--registry", "nonsense://x"], "'nonsense' is not known; known are etcd"),
        (["watch", "--registry", "etcd://127.0.0.1:2379?nonsense=1"], "'nonsense'"),
        (["--log-level", "nonsense", "watch"], "--log-level"),
        (["config", "check", "/"], "/: cannot be read: Is a directory; name another with --config"),
        (["run"], "--plugin"),
        (["register-container", "b1", "80", "web", "--force", "--takeover"], "give one of them"),
        (["register-container", "b1", "80", "web", "--host", "network:x"], "discovery: --host 'network:x' "),
        (["run", "--plugin", "nonsense"], "'nonsense'"),
    ],
)
def test_usage_errors(
    arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISCOVERY_REGISTRY", raising=False)
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Input should" not in err
    assert "Value error" not in err
    assert err.count("\n") == 1
    assert reason in err


@pytest.mark.parametrize("service", ["we/b", "", ".web", "we b", "w" * 129])
@pytest.mark.parametrize(
    "arguments",
    [
        ["services", "SERVICE"],
        ["services", "SERVICE", "--health"],
        ["wait", "SERVICE"],
        ["history", "--service", "SERVICE"],
        ["release", "SERVICE"],
        ["deregister", "SERVICE", "b1"],
        ["register", "SERVICE", "127.0.0.1:1"],
        ["ambassador", "SERVICE", "80"],
        ["register-container", "b1", "80", "SERVICE"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_is_no_name_of_a_service_is_refused_with_the_rule(
    arguments: list[str], service: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [service if word == "SERVICE" else word for word in arguments]
    of_a_daemon = {"wait": [], "history": [], "release": ["--run-dir", str(tmp_path)]}
    options = of_a_daemon.get(words[0], ["--registry", f"file://{tmp_path}"])
    assert main([*words, *options]) == 2
    assert capfd.readouterr() == ("", f"discovery: the service name {service!r} is not valid: {RULE}\n")


def _raised_from_a_ctrl_c() -> RuntimeError:
    """As Python does while a class is made, up to 3.11."""
    try:
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error", [_raised_from_a_ctrl_c(), ValueError("Error building `model` serializer:\n  KeyboardInterrupt: ")]
)
def test_a_ctrl_c_while_it_loads_is_one_whatever_is_made_of_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def app(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("discovery.cli.app.app", app)
    assert main([]) == 130
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a"), 2, "discovery: a"),
        (PluginError("a"), 2, "discovery: a"),
        (RegistryUnavailableError("a\nb"), 1, "discovery: a\\nb"),
        (DiscoveryError("a"), 1, "discovery: a"),
        (KeyError("a\nb"), 1, "discovery: unexpected KeyError: 'a\\nb'; `discovery --debug ...` shows where"),
    ],
)
def test_exceptions_become_a_line_and_a_code(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def app(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("discovery.cli.app.app", app)
    monkeypatch.delenv("DISCOVERY_DEBUG", raising=False)
    assert main([]) == code
    assert capfd.readouterr() == ("", f"{line}\n")


def test_debug_shows_where_an_unexpected_error_came_from(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def app(*_: object, **__: object) -> None:
        raise KeyError("a")

    monkeypatch.setattr("discovery.cli.app.app", app)
    monkeypatch.setenv("DISCOVERY_DEBUG", "1")
    assert main([]) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert err.endswith("discovery: unexpected KeyError: 'a'\n")


@pytest.mark.costly
@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "discovery"], [str(Path(sys.executable).parent / "discovery")]]
)
def test_module_and_script_are_the_same(command: list[str]) -> None:
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("discovery-framework 0.")
    bare = subprocess.run(command, capture_output=True, text=True, check=True)
    help_ = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert bare.stdout == help_.stdout
    for name in ("run", "services", "watch", "register", "plugins", "config", "demo"):
        assert f"\n  {name} " in help_.stdout


def test_help_loads_nothing_heavy() -> None:
    script = "import sys; from discovery.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"grpc", "aiohttp", "structlog", "watchdog", "rich", "discovery.daemon.settings"} & set(
        done.stderr.split()
    )


@pytest.mark.parametrize("command", ["register-container", "ambassador"])
def test_a_command_of_a_plugin_loads_no_rich(command: str) -> None:
    """Which structlog imports if nothing keeps it from that: 5 MiB."""
    script = f"import sys; from discovery.cli import main; main([{command!r}, '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "structlog" in loaded
    assert "rich" not in loaded


def test_a_command_loads_no_other() -> None:
    script = (
        "import sys; from discovery.cli import main; main(['stop', '--help']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "discovery.cli.stop" in loaded
    assert not {f"discovery.cli.{name}" for name in OWN if name != "stop"} & loaded


@pytest.mark.parametrize(("typo", "meant"), [("sevices", "services"), ("confg", "config")])
def test_what_was_meant_is_asked(typo: str, meant: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([typo]) == 2
    assert f"Did you mean '{meant}'" in capfd.readouterr().err


def test_the_collector_of_garbage_waits_until_everything_is_loaded_and_never_looks_at_that() -> None:
    script = """
import gc
from discovery.cli import main
main(["version"])
loading = gc.get_threshold()
gc.collect()
print(loading[0] > gc.get_threshold()[0] > 700, gc.get_freeze_count() > 10_000, gc.callbacks)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True []"


def test_garbage_of_the_start_is_finalized_and_a_second_call_freezes_nothing_more() -> None:
    script = """
import gc, weakref
from discovery.cli import main
class Cycle:
    def __init__(self):
        self.itself = self
main(["version"])
main(["version"])
weakref.finalize(Cycle(), print, "finalized")
print(len(gc.callbacks))
while len(gc.callbacks):
    kept = [[[]], globals().get("kept")]
frozen = gc.get_freeze_count()
more = [[each] for each in range(10_000)]
main(["version"])
gc.collect()
print(0 < gc.get_freeze_count() < frozen + 5_000, gc.callbacks, gc.get_threshold()[0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[2:4] == ["1", "finalized"]
    assert done.stdout.splitlines()[-1] == "True [] 10000"


def test_a_listing_whose_reader_goes_away_ends_quietly(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "web").mkdir(exist_ok=True)
        (tmp_path / "web" / f"b{number}").write_text('{"host": "10.0.0.1", "port": 80, "note": "' + "x" * 900 + '"}')
    process = subprocess.Popen(
        [sys.executable, "-m", "discovery", "services", "--registry", f"file://{tmp_path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(within(10)) == 1
