"""What the tests share that use the daemon as a person would."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ambassadors import directory, named, short_path, start_command
from daemons import RecordFiles, Starter, start_daemon, tmp_path

__all__ = ["directory", "named", "short_path", "start_command", "start_daemon", "tmp_path"]


@pytest.fixture
def file_registry(tmp_path: Path) -> RecordFiles:
    """A file registry's URL, and a function that writes a record as an editor or git would."""
    root = tmp_path / "registry"
    root.mkdir()

    def write(key: str, value: str) -> None:
        path = root / key
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(value)
        temporary.replace(path)

    return f"file://{root}", write


@pytest.fixture
def install_plugin(tmp_path: Path, start_daemon: Starter) -> Callable[..., None]:
    """Makes third-party plugins: `install(name, source)` is a distribution that daemons started here can see."""
    site = tmp_path / "site"

    def install(name: str, source: str, distribution: str = "") -> None:
        distribution = distribution or f"third-party-{name}"
        module = distribution.replace("-", "_")
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[discovery]\n{name} = {module}\n")
        (site / f"{module}.py").write_text(source)
        start_daemon.environment["PYTHONPATH"] = str(site)

    return install
