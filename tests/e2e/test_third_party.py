"""A plugin of others beside a wheel of the core, in an environment that has nothing of this checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_plugin_of_others_is_found_configured_run_and_tested(tmp_path: Path) -> None:
    subprocess.run([sys.executable, *PIP, "wheel", "--no-deps", "-w", tmp_path / "core", ROOT], check=True)
    (core,) = (tmp_path / "core").glob("*.whl")
    environment = Environment(tmp_path / "environment")
    environment.run(tmp_path, "python", *PIP, "install", str(core), "hypothesis", "mypy", "pytest")
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
