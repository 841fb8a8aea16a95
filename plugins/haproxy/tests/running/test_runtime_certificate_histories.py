"""Random histories of certificates: after each change a client sees what a new HAProxy would show."""

import asyncio
import os
import random
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from haproxy_driver import Drive, ways

from discovery import Backend
from discovery.testing import free_port, within
from discovery_haproxy.program.control_socket import ControlSocket

Origins = tuple[Backend, ...]
FILES = ("a.pem", "b.pem", "c.pem")
NAMES = ("one.example", "two.example", "*.wild.example")
ASKED = ("one.example", "two.example", "x.wild.example", "unknown.example")
STEPS = 60
"""Changes of a history: enough for each kind of change to follow each other kind, and at most a minute."""


@pytest.fixture(scope="module")
def issued() -> dict[tuple[str, ...], list[bytes]]:
    """Return PEM files by the names of their certificates, with keys of both kinds: RSA keys take long to make."""
    authority = trustme.CA()
    kinds = (trustme.KeyType.ECDSA, trustme.KeyType.ECDSA, trustme.KeyType.RSA)
    sets = [(name,) for name in NAMES] + [NAMES[:2]]
    return {
        names: [authority.issue_cert(*names, key_type=kind).private_key_and_cert_chain_pem.bytes() for kind in kinds]
        for names in sets
    }


def handshake(bind: str, name: str, kind: str) -> bytes | None:
    """Return the certificate that a client is shown which takes this kind of keys; None if there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities, which take long to load
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(kind)
    host, _, port = bind.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=within(5)) as plain,
            context.wrap_socket(plain, server_hostname=name) as client,
        ):
            return client.getpeercert(binary_form=True)
    except ssl.SSLError:
        return None


def shown(bind: str) -> list[bytes | None]:
    return [handshake(bind, name, kind) for name in ASKED for kind in ("ECDHE", "aRSA")]


@asynccontextmanager
async def new_start(haproxy: Path, run_dir: Path, bind: str) -> AsyncIterator[str]:
    """Start a HAProxy from the installed file at another address, and yield that."""
    directory, other = run_dir / "new", f"127.0.0.1:{free_port()}"
    directory.mkdir(exist_ok=True)
    config = directory / "new.cfg"
    config.write_text(
        (run_dir / "haproxy.cfg").read_text().replace(f"{run_dir}/", f"{directory}/").replace(bind, other)
    )
    process = await asyncio.create_subprocess_exec(
        haproxy, "-db", "-f", config, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await ControlSocket(directory / "stats.sock", master=False).live_generation(within(10))
        yield other
    finally:
        process.kill()
        await process.wait()


@pytest.mark.exhaustive  # each step starts another HAProxy
async def test_a_random_history_of_certificates(
    drive: Drive,
    haproxy: Path,
    origins: Origins,
    bind: str,
    tmp_path: Path,
    issued: dict[tuple[str, ...], list[bytes]],
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    directory = tmp_path / "certificates"
    directory.mkdir()

    def write(name: str) -> str:
        pem = dice.choice(issued[dice.choice(list(issued))])
        (directory / ".new").write_bytes(pem)
        os.replace(directory / ".new", directory / name)  # noqa: PTH105
        return name

    write("a.pem")
    write("b.pem")
    async with drive(services={"web": {"bind": {"address": bind, "certificate": str(directory)}}}) as driver:
        await driver.apply(origins[0])
        for step in range(STEPS):
            changed = [write(name) for name in dice.sample(FILES, dice.choice((1, 1, 1, 2)))]
            if dice.random() < 0.2 and (directory / "c.pem").exists():
                (directory / "c.pem").unlink()
            await driver.apply_again()
            live = await asyncio.to_thread(shown, bind)
            async with new_start(haproxy, driver.run_dir, bind) as other:
                assert live == await asyncio.to_thread(shown, other), (seed, step, changed, ways(driver))
        print(ways(driver))
