"""Point 9: a configuration, and a template, behind symbolic links are followed through every turn and every edit."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon, RecordFiles, Starter

from discovery.testing import eventually_sync, free_port, require_program

pytestmark = pytest.mark.warm

TIMEOUT = 60.0


def turn(link: Path, target: str) -> None:
    following = link.with_name(f"{link.name}.next")
    following.symlink_to(target)
    following.replace(link)


def links(root: Path) -> tuple[Path, Callable[[int], Path], Callable[[int], None]]:
    """A link beside its targets: the path, where version n is, and how to turn to it."""
    return root / "f", lambda n: root / f"v{n}", lambda n: turn(root / "f", f"v{n}")


def kubernetes(root: Path) -> tuple[Path, Callable[[int], Path], Callable[[int], None]]:
    (root / "f").symlink_to("..data/f")
    return root / "f", lambda n: root / f"..v{n}/f", lambda n: turn(root / "..data", f"..v{n}")


def releases(root: Path) -> tuple[Path, Callable[[int], Path], Callable[[int], None]]:
    return root / "current/f", lambda n: root / f"v{n}/f", lambda n: turn(root / "current", f"v{n}")


@pytest.mark.parametrize("layout", [links, kubernetes, releases])
def test_the_configuration_is_followed(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, layout: Any
) -> None:
    def write(n: int, port: int) -> None:
        place(n).parent.mkdir(exist_ok=True)
        place(n).write_text(
            f'admin = "{admin}"\n[registry]\nurl = "{url}"\n'
            f'[consumers.p]\nplugin = "tcpproxy"\nlisten.web = "127.0.0.1:{port}"\n'
        )

    def listens(daemon: Daemon, port: int) -> bool:
        return f'address="127.0.0.1:{port}"' in daemon.get("/metrics")[1]

    (tmp_path / "etc").mkdir()
    url, _ = file_registry
    admin = f"127.0.0.1:{free_port()}"
    path, place, turn_to = layout(tmp_path / "etc")
    ports = [free_port() for _ in range(6)]
    write(1, ports[0])
    turn_to(1)
    daemon = start_daemon("--config", str(path), admin=admin)
    eventually_sync(lambda: listens(daemon, ports[0]), timeout=TIMEOUT)
    for n, port, changed in ((2, ports[1], ports[2]), (3, ports[3], ports[4])):
        write(n, port)
        turn_to(n)
        eventually_sync(lambda port=port: listens(daemon, port), f"the turn to version {n} to be seen", TIMEOUT)
        write(n, changed)
        eventually_sync(lambda port=changed: listens(daemon, port), f"the edit of version {n} to be seen", TIMEOUT)


@pytest.mark.parametrize("layout", [links, kubernetes, releases])
def test_a_template_is_followed(tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, layout: Any) -> None:
    def write(n: int, mark: str) -> None:
        place(n).parent.mkdir(exist_ok=True)
        place(n).write_text(f"{{% include 'builtin/haproxy.cfg.j2' %}}\n# {mark}\n")

    def serves(mark: str) -> bool:
        return f"# {mark}\n" in (daemon.run_dir / "haproxy/haproxy.cfg").read_text()

    require_program("haproxy")
    (tmp_path / "etc").mkdir()
    url, _ = file_registry
    path, place, turn_to = layout(tmp_path / "etc")
    write(1, "first")
    turn_to(1)
    daemon = start_daemon(
        "--registry", url, "--plugin", "haproxy", "--set", f"haproxy.services.web.bind=127.0.0.1:{free_port()}",
        "--set", f"haproxy.template={os.fspath(path)}",
    )  # fmt: skip
    eventually_sync(lambda: serves("first"), timeout=TIMEOUT)
    for n in (2, 3):
        write(n, f"turned to {n}")
        turn_to(n)
        eventually_sync(lambda n=n: serves(f"turned to {n}"), timeout=TIMEOUT)
        write(n, f"edited {n}")
        eventually_sync(lambda n=n: serves(f"edited {n}"), timeout=TIMEOUT)
