"""Point 19: the steps of the README for a plugin of your own work as printed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from daemons import Starter

from discovery.testing import eventually_sync, free_port, within

README = Path(__file__).parents[2] / "README.md"


def test_the_plugin_of_the_readme_runs(start_daemon: Starter, tmp_path: Path) -> None:
    section = README.read_text().partition("## Your own plugin\n")[2].partition("\n## ")[0]
    here = section.replace("/tmp/", f"{tmp_path}/")
    blocks = re.findall(r"```[a-z]*\n(.*?)```", here, re.DOTALL)
    files = {match[1]: block for block in blocks if (match := re.match(r"# (\S+)\n", block))}
    assert list(files) == ["mine.py", "pyproject.toml"]
    directory = tmp_path / "mine"
    directory.mkdir()
    for name, text in files.items():
        (directory / name).write_text(text)
    install, prepare, run = blocks[-1].splitlines()
    assert install == "pip install -e ."
    environment = installed(directory)
    subprocess.run(["sh", "-c", prepare], cwd=directory, check=True)
    command, *arguments = run.split()
    assert (command, arguments[0]) == ("discovery", "run")
    start_daemon.environment |= environment
    start_daemon(*arguments[1:])
    promised = re.search(r"`(\S+/backends)` is now `(.*?)`", here)
    assert promised is not None
    path, line = promised.groups()
    eventually_sync(lambda: Path(path).read_text() == f"{line}\n", timeout=60)
    (tmp_path / "registry/web/b1").unlink()
    eventually_sync(lambda: Path(path).read_text() == "", timeout=60)


def installed(directory: Path) -> dict[str, str]:
    """An environment in which the directory is installed as `pip install -e` does, without asking an index."""
    project = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    site = directory.with_name("site")
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points))
    return {"PYTHONPATH": f"{site}:{directory}"}


@pytest.mark.costly
def test_api_is_an_index_of_paths_that_answer(start_daemon: Starter, tmp_path: Path) -> None:
    proxy = f"tcpproxy.listen.web=unix:{tmp_path}/s"
    server = f"apache.httpd.web.address=127.0.0.1:{free_port()}"
    plugins = ("--plugin", "tcpproxy", "--set", proxy, "--plugin", "apache", "--set", server)
    daemon = start_daemon(*plugins, "--registry", "memory://")
    eventually_sync(daemon.is_ready, timeout=60)
    for index in ("/api", "/api/"):
        status, document = daemon.get(index)
        assert status == 200
        for path in document["paths"]:
            name = "apache" if path.startswith("/api/providers/") else "tcpproxy"
            assert daemon.get(path.replace("NAME", name))[0] == 200, path


@pytest.mark.costly
def test_the_demo_prints_commands_that_can_be_typed() -> None:
    program = "import sys; from discovery.demo.steps import _discovery; sys.argv[0] = sys.argv[1]; print(_discovery())"
    script = Path(sys.executable).with_name("discovery")

    def printed(argument: str, path: str) -> str:
        command = [sys.executable, "-c", program, argument]
        ran = subprocess.run(
            command, capture_output=True, text=True, check=True, env={"PATH": path}, timeout=within(60)
        )
        return ran.stdout.strip()

    assert printed(str(script), "/usr/bin:/bin") == str(script)
    assert printed(str(script), str(script.parent)) == "discovery"
    assert printed("-c", "/usr/bin:/bin") == f"{sys.executable} -m discovery"
