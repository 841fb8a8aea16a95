"""A plugin of others beside a wheel of the core, in an environment that has nothing of this checkout."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from discovery.scaffold import Kind
from discovery.testing import eventually_sync, within

ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


class Environment:
    """A virtual environment."""

    def __init__(self, directory: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        self.bin = directory / "bin"

    def run(self, cwd: Path, program: str, *arguments: str) -> str:
        """Run a program of the environment and return its stdout."""
        own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        environment = {name: value for name, value in os.environ.items() if name not in own}
        command = [str(self.bin / program), *arguments]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def shell(self, directory: Path, script: str) -> Iterator[None]:
        """The commands of a README run, until the block ends. Their output goes to the file `out`."""
        own = {"PATH": f"{self.bin}:{os.environ['PATH']}", "DISCOVERY_ADMIN": "off"}
        places = {f"DISCOVERY_{name}_DIR": str(directory / name.lower()) for name in ("RUN", "STATE")}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own | places
        command = ["/bin/sh", "-c", script]
        with (directory / "out").open("wb") as out:
            process = subprocess.Popen(
                command, cwd=directory, stdout=out, stderr=out, env=environment, start_new_session=True
            )
            try:
                yield
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(within(30))


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_plugin_of_others_is_found_configured_run_and_tested(tmp_path: Path) -> None:
    subprocess.run([sys.executable, *PIP, "wheel", "--no-deps", "-w", tmp_path / "core", ROOT], check=True)
    (core,) = (tmp_path / "core").glob("*.whl")
    environment = Environment(tmp_path / "environment")
    environment.run(tmp_path, "python", *PIP, "install", str(core), "mypy", "pytest")
    environment.run(tmp_path, "discovery", "plugins", "new", "third", "--kind", "consumer")
    project = tmp_path / "discovery-third"
    environment.run(tmp_path, "python", *PIP, "wheel", "--no-deps", "-w", str(tmp_path / "dist"), str(project))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    environment.run(tmp_path, "python", *PIP, "install", str(wheel))

    listed = json.loads(environment.run(tmp_path, "discovery", "plugins", "--json"))
    (third,) = listed
    assert (third["name"], third["distribution"], third["error"]) == ("third", "discovery-third", None)

    config = tmp_path / "discovery.toml"
    backends, run_dir, registry = tmp_path / "backends.json", tmp_path / "run", tmp_path / "registry"
    (registry / "web").mkdir(parents=True)
    (registry / "web/a").write_text("127.0.0.1:8001")
    config.write_text(
        f'registry = {{ url = "file://{registry}" }}\nrun_dir = "{run_dir}"\n'
        f'[consumers.mine]\nplugin = "third"\npath = "{backends}"\n'
    )
    environment.run(tmp_path, "discovery", "config", "check", str(config))
    environment.run(tmp_path, "discovery", "run", "--config", str(config), "--once")
    assert [each["address"] for each in json.loads(backends.read_text())["web"]] == ["127.0.0.1:8001"]

    environment.run(project, "python", "-m", "pytest", "-q", "tests")
    environment.run(project, "python", "-m", "mypy", "--strict", "discovery_third", "tests")


SEEN: Mapping[Kind, Callable[[Path], object]] = {
    Kind.CONSUMER: lambda world: "10.0.0.5:8080" in text(world / "backends.json"),
    Kind.PROVIDER: lambda world: [*world.glob("registry/web/*")],
    Kind.REGISTRY: lambda world: re.search(r"^web .*10\.0\.0\.5:8080", text(world / "out"), re.MULTILINE),
    Kind.OBSERVER: lambda world: "added" in text(world / "out") and "10.0.0.5:8080" in text(world / "out"),
    Kind.COMMAND: lambda world: text(world / "out").splitlines() == ["10.0.0.5:8080"],
}
"""The effect of the commands in the README of each kind. Their output is in `out`."""


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_a_plugin_of_each_kind_works_as_its_readme_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, *PIP, "wheel", "--no-deps", "-w", tmp_path / "core", ROOT], check=True)
    (core,) = (tmp_path / "core").glob("*.whl")
    environment = Environment(tmp_path / "environment")
    environment.run(tmp_path, "python", *PIP, "install", str(core))
    for kind in Kind:
        world = tmp_path / kind
        world.mkdir()
        environment.run(world, "discovery", "plugins", "new", f"my-{kind}", "--kind", kind)
        project = world / f"discovery-my-{kind}"
        steps, usage = re.findall(r"```\n(.*?)```", (project / "README.md").read_text(), re.DOTALL)
        for line in steps.splitlines():
            for step in line.split(" && "):
                program, *arguments = shlex.split(step)
                environment.run(project, program, *arguments)
        if kind is Kind.REGISTRY:  # the record is there a moment after its registration has begun
            usage = re.sub(r"^(discovery services .*)$", r"while sleep 0.2; do \1; done", usage, flags=re.MULTILINE)
        with environment.shell(world, usage.replace("/tmp", str(world))):
            eventually_sync(lambda kind=kind, world=world: SEEN[kind](world), timeout=60)


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
