"""Envoy as users run it: with the bootstrap that `discovery xds bootstrap` prints; and web servers behind it."""

import asyncio
import json
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from envoy_program import require_envoy

from discovery.testing import eventually, free_port, within
from discovery_xds import bootstrap


class Origin:
    """A web server that answers with its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.requests: list[web.Request] = []

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=self.name)


@asynccontextmanager
async def web_origins(*names: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[list[Origin]]:
    made, runners = [Origin(name) for name in names], []
    try:
        for each in made:
            runner = web.ServerRunner(web.Server(each.serve))
            await runner.setup()
            runners.append(runner)
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            each.port = runner.addresses[0][1]
        yield made
    finally:
        for runner in runners:
            await runner.cleanup()


class Envoy:
    """A running Envoy: its listener for HTTP, and its own admin port."""

    def __init__(self, directory: Path, session: aiohttp.ClientSession) -> None:
        self.directory = directory
        self.session = session
        self.port = free_port()
        self.admin = free_port()
        self.process: asyncio.subprocess.Process | None = None

    @property
    def bind(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, server: str, **options: Any) -> None:
        node = bootstrap.Node(options.pop("node", "envoy-1"))
        path = self.directory / f"envoy-{self.port}.yaml"
        path.write_text(bootstrap.envoy(server, node, admin=f"127.0.0.1:{self.admin}", **options))
        with (self.directory / f"envoy-{self.port}.log").open("w") as log:
            self.process = await asyncio.create_subprocess_exec(
                require_envoy(), "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "warning",
                stdout=log, stderr=log,
            )  # fmt: skip

    async def stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            await self.process.wait()

    async def get(self, path: str = "/", host: str = "web", port: int | None = None) -> tuple[int, str]:
        """Status and body of an answer; status 0 without one."""
        url = f"http://127.0.0.1:{port or self.port}{path}"
        with suppress(aiohttp.ClientError):
            async with self.session.get(url, headers={"Host": host}) as answer:
                return answer.status, await answer.text()
        return 0, ""

    async def answers(self, text: str, path: str = "/", host: str = "web", port: int | None = None) -> None:
        """Wait until requests are answered with `text`, or with the status of that number."""

        await eventually(
            lambda: self.is_answered(text, path, host, port), f"{host}{path} is answered with {text}", timeout=30
        )

    async def is_answered(self, text: str, path: str = "/", host: str = "web", port: int | None = None) -> bool:
        """Return True if a request is answered with `text`, or with the status of that number."""
        status, body = await self.get(path, host, port)
        return text in (body, str(status))

    async def config(self, kind: str) -> Any:
        """The resources of a kind (`clusters`, `listeners`, `routes`) that Envoy has."""
        async with self.session.get(f"http://127.0.0.1:{self.admin}/config_dump?include_eds") as answer:
            dump = json.loads(await answer.text())
        return [each for each in dump["configs"] if kind in each["@type"].lower()]


@asynccontextmanager
async def envoy(directory: Path) -> AsyncIterator[Envoy]:
    """An Envoy that `start` starts."""
    require_envoy()
    timeout = aiohttp.ClientTimeout(total=within(10))
    async with aiohttp.ClientSession(timeout=timeout) as session:
        made = Envoy(directory, session)
        try:
            yield made
        finally:
            await made.stop()
