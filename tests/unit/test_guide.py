"""The guide to plugins: every block of code in it works, and its tutorial leads to a consumer that works."""

import difflib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from third_party import install

from discovery.daemon.config import parse_settings
from discovery.daemon.instances import build
from discovery.daemon.settings import Overrides
from discovery.hosting import loading
from discovery.scaffold import Kind, distribution, write_distribution
from discovery.testing import eventually_sync, free_port, within

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/plugins.md").read_text()
EXAMPLE = ROOT / "examples/balancer"
MOST_LINES = 60
"""Lines that an author writes on top of what `discovery plugins new` has written."""
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]
TABLES = [text for kind, text in BLOCKS if kind == "toml"]
COMMANDS = [text for kind, text in BLOCKS if not kind]
FILES = dict(re.findall(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


@contextmanager
def imported(directory: Path, name: str, text: str) -> Iterator[ModuleType]:
    """A program of the page as a module."""
    file = directory / f"{name}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]


@pytest.mark.parametrize("at", range(len(PROGRAMS)))
def test_a_program_of_the_guide_can_be_imported(at: int, tmp_path: Path) -> None:
    balancer = FILES["discovery_balancer/__init__.py"]
    with (
        imported(tmp_path, "mine", FILES["mine.py"]),
        imported(tmp_path, "discovery_balancer", balancer),
        imported(tmp_path, f"program_{at}", PROGRAMS[at]) as module,
    ):
        assert [name for name in vars(module) if not name.startswith("_")]


@pytest.mark.parametrize(
    "at", [at for at, each in enumerate(PROGRAMS) if re.search(r"@hookimpl|\((Consumer|Provider)\[", each)]
)
def test_a_plugin_of_the_guide_is_one_that_the_core_accepts(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scheme := re.search(r'register\("(\w+)", Fixed\)', PROGRAMS[at]):
        install(tmp_path, scheme[1], PROGRAMS[at], "guide-registry")
        monkeypatch.syspath_prepend(tmp_path)
        assert loading.load(scheme[1]).provides == (f"registry {scheme[1]}://",)
        return
    file = tmp_path / "plugin.py"
    file.write_text(PROGRAMS[at])
    assert loading.load(str(file)).provides


def test_the_single_file_of_the_guide_can_be_applied_once(tmp_path: Path) -> None:
    (tmp_path / "registry/web").mkdir(parents=True)
    (tmp_path / "registry/web/b1").write_text("10.0.0.5:8080")
    (tmp_path / "mine.py").write_text(FILES["mine.py"])
    command = shlex.split(next(each for each in COMMANDS if "--plugin ./mine.py" in each).splitlines()[0])
    own = {
        "mine.path=/tmp/backends": f"mine.path={tmp_path}/backends",
        "file:///tmp/registry": f"file://{tmp_path}/registry",
    }
    places = ["--run-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state")]
    ran = subprocess.run(
        [sys.executable, "-m", *(own.get(each, each) for each in command), "--once", *places],
        cwd=tmp_path, capture_output=True, text=True, timeout=within(60), check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "backends").read_text() == "web 10.0.0.5:8080\n"


@pytest.mark.parametrize("at", range(len(TABLES)))
def test_a_table_of_the_guide_is_valid(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = tomllib.loads(TABLES[at])
    if {"mine", "balancer"} & tables.get("consumers", {}).keys():
        (tmp_path / "mine.py").write_text(FILES["mine.py"])
        (tmp_path / "balancer.py").write_text(FILES["discovery_balancer/__init__.py"])
        monkeypatch.chdir(tmp_path)
        for table in tables["consumers"].values():
            table["plugin"] = f"./{Path(table['plugin']).stem}.py"
        assert build(parse_settings(tables, Overrides())).usable
    elif "build-system" in tables:
        written = tomllib.loads(distribution("balancer", Kind.CONSUMER)["pyproject.toml"])
        assert tables["build-system"] == written["build-system"]
        assert tables["project"]["entry-points"] == written["project"]["entry-points"]
        assert tables["project"]["dependencies"][0] == written["project"]["dependencies"][0]
        assert tables["tool"]["hatch"] == written["tool"]["hatch"]


def test_the_example_is_what_the_tutorial_leads_to() -> None:
    for path, text in distribution("balancer", Kind.CONSUMER).items():
        if path != "README.md":
            assert (EXAMPLE / path).read_text() == FILES.get(path, text), path
    (commands,) = (each for each in COMMANDS if "--plugin balancer" in each)
    assert f"```\n{commands}```" in (EXAMPLE / "README.md").read_text()


def test_the_other_examples_are_what_plugins_new_writes() -> None:
    for name, kind in (("sqlite", Kind.REGISTRY), ("addresses", Kind.COMMAND)):
        for path, text in distribution(name, kind).items():
            assert (ROOT / "examples" / name / path).read_text() == text, path


def test_an_author_writes_few_lines() -> None:
    scaffold = distribution("balancer", Kind.CONSUMER)
    own = 0
    for path, text in FILES.items():
        if path != "mine.py":
            lines = difflib.ndiff(scaffold[path].splitlines(), text.splitlines())
            own += sum(line.startswith("+ ") and line.strip() != "+" for line in lines)
    assert own <= MOST_LINES


@pytest.mark.exhaustive
def test_what_the_tutorial_leads_to_is_green(tmp_path: Path) -> None:
    target = tmp_path / "new"
    write_distribution("balancer", Kind.CONSUMER, target)
    for path in ("discovery_balancer/__init__.py", "tests/test_balancer.py"):
        (target / path).write_text(FILES[path])
    for check in ("pytest -q", "mypy --strict discovery_balancer tests", "ruff check .", "ruff format --check ."):
        environment = {**os.environ, "PYTHONPATH": str(target)}
        command = [sys.executable, "-m", *shlex.split(check)]
        done = subprocess.run(command, cwd=target, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.costly
def test_the_commands_of_the_tutorial_balance_and_follow(tmp_path: Path) -> None:
    install(tmp_path / "site", "balancer", FILES["discovery_balancer/__init__.py"], "discovery-balancer")
    shutil.copy(EXAMPLE / "balancer.py", tmp_path)
    (block,) = (each for each in COMMANDS if "--plugin balancer" in each)
    port = free_port()
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [server.getsockname()[1] for server in servers]
        for server, answer in zip(servers, (b"first", b"second"), strict=True):
            stack.enter_context(_answering(server, answer))
        text = block.replace("/tmp", str(tmp_path)).replace("8080", str(port)).replace("8001", str(ports[0]))
        for line in text.splitlines():
            stack.enter_context(_running(tmp_path, line))
        eventually_sync(lambda: _ask(port) == b"first", "the balancer to know the backend", timeout=30)
        (tmp_path / "registry/web/second").write_text(f"127.0.0.1:{ports[1]}")
        eventually_sync(lambda: _ask(port) == b"second", "the balancer to know the other", timeout=30)


@contextmanager
def _running(directory: Path, line: str) -> Iterator[None]:
    """A line of the tutorial, without a shell."""
    program, *arguments = shlex.split(line.removesuffix("&"))
    if program == "mkdir":
        Path(arguments[-1]).mkdir()
        yield
        return
    command = [sys.executable, *(["-m", "discovery"] if program == "discovery" else []), *arguments]
    if "run" in arguments:
        command += ["--run-dir", str(directory / "run"), "--state-dir", str(directory / "state")]
    if "register" in arguments:
        command += ["--run-dir", str(directory / "run")]
    environment = {**os.environ, "PYTHONPATH": str(directory / "site"), "DISCOVERY_ADMIN": "off"}
    with subprocess.Popen(command, cwd=directory, env=environment) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def _answering(server: socket.socket, answer: bytes) -> Iterator[None]:
    """A thread that answers each client of a server."""

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    server.shutdown(socket.SHUT_RDWR)
    thread.join()


def _ask(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            return client.recv(100)
    except OSError:
        return b""
