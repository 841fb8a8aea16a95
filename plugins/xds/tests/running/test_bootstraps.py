"""The bootstraps that `discovery xds bootstrap` prints work as printed, beside a daemon and with mTLS."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest
import trustme
from envoy_program import require_envoy
from xds_driving import driving

from discovery.testing import backend, eventually, free_port, within

pytestmark = pytest.mark.swap
PROGRAM = "import grpc; grpc.channel_ready_future(grpc.insecure_channel('xds:///web')).result()"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "discovery", *map(str, arguments)]


def printed(kind: str, server: str, *options: object) -> str:
    run = command("xds", "bootstrap", f"--{kind}", "--server", server, "--node-id", kind, *options)
    return subprocess.run(run, capture_output=True, text=True, check=True).stdout


@asynccontextmanager
async def running(
    *arguments: object, log: Path | None = None, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("w") if log is not None else nullcontext() as stderr:
        process = await asyncio.create_subprocess_exec(
            *map(str, arguments), env={**os.environ, **variables}, stderr=stderr
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), within(30))


@asynccontextmanager
async def connecting(port: int) -> AsyncIterator[list[str]]:
    """Connect again and again until the block ends; yields the errors."""
    errors: list[str] = []

    async def connect() -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
            except ConnectionRefusedError as error:
                errors.append(str(error))
            await asyncio.sleep(0.002)

    connecting = asyncio.ensure_future(connect())
    try:
        yield errors
        assert not connecting.done()
    finally:
        connecting.cancel()


async def first_bytes(port: int) -> bytes:
    """What a TCP client of Envoy reads first."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await asyncio.wait_for(reader.read(100), within(5))
    finally:
        writer.close()


@asynccontextmanager
async def greeter(name: bytes) -> AsyncIterator[int]:
    """A TCP server that greets, by its port."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_envoy_follows_a_daemon_through_its_replacement(tmp_path: Path) -> None:
    server, port, registry = f"127.0.0.1:{free_port()}", free_port(), tmp_path / "registry"
    (registry / "web").mkdir(parents=True)
    services = f'{{ mode = "tcp", bind = "127.0.0.1:{port}" }}'
    run = command(
        "run", "--registry", f"file://{registry}", "--plugin", "xds", "--set", f"xds.listen={server}",
        "--set", f"xds.services.web={services}", "--run-dir", tmp_path / "run", "--state-dir", tmp_path / "state",
        "--admin", "off",
    )  # fmt: skip
    (tmp_path / "envoy.yaml").write_text(printed("envoy", server))
    envoy = require_envoy(), "-c", tmp_path / "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "-l", "error"
    log = tmp_path / "successor.log"
    async with greeter(b"a") as a, greeter(b"b") as b, running(*run) as first, running(*envoy):
        (registry / "web" / "one").write_text(f"127.0.0.1:{a}")

        async def greeted(name: bytes) -> bool:
            return await first_bytes(port) == name

        await eventually(lambda: greeted(b"a"), timeout=60)
        async with running(*run, "--replace", log=log), connecting(int(server.rpartition(":")[2])) as refused:
            assert await asyncio.wait_for(first.wait(), within(60)) == 0
            (registry / "web" / "one").write_text(f"127.0.0.1:{b}")
            await eventually(lambda: greeted(b"b"), timeout=60)
        assert refused == []
        assert "inherited socket" not in log.read_text()


async def test_clients_with_certificates_follow_over_mtls(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca"))
    for name in ("server", "client"):
        issued = ca.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.crt"))
    tls = {
        "certificate": str(tmp_path / "server.crt"),
        "key": str(tmp_path / "server.key"),
        "client_ca": str(tmp_path / "ca"),
    }
    files = ["--ca", tmp_path / "ca", "--certificate", tmp_path / "client.crt", "--key", tmp_path / "client.key"]
    port = free_port()
    services = {"web": {"mode": "tcp", "bind": f"127.0.0.1:{port}"}}
    async with greeter(b"a") as a, driving(services=services, tls=tls) as driven:
        await driven.apply(backend(port=a))
        file = tmp_path / "envoy.yaml"
        file.write_text(printed("envoy", driven.address, *files))
        envoy = require_envoy(), "-c", file, "--concurrency", "1", "--disable-hot-restart", "-l", "error"
        program = sys.executable, "-c", PROGRAM
        variables = {"GRPC_XDS_BOOTSTRAP_CONFIG": printed("grpc", driven.address, *files)}
        async with running(*envoy), running(*program, **variables):

            async def greeted() -> bool:
                return await first_bytes(port) == b"a"

            await eventually(greeted, timeout=60)

            async def live() -> bool:
                return {node["node"] for node in await driven.nodes() if node["live_revision"] == 1} == {
                    "envoy",
                    "grpc",
                }

            await eventually(live, timeout=60)
