"""An operator's haproxy.cfg of 400 lines comes under discovery with five lines, and without a lost request."""

import asyncio
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from external_haproxy import ExternalProcess, run_external
from haproxy_driver import ConsumerDriver, Drive, StartLoad, wait_until_served, ways
from haproxy_web import Fetch, Origin, serve_origin

from discovery import Backend
from discovery.testing import backend, free_port

Origins = tuple[Backend, ...]
EXISTING = Path(__file__).parents[1] / "existing" / "haproxy.cfg"
CONFIGURATION = """\
consumers.edge.plugin = "haproxy"
consumers.edge.external.fragment = "/etc/haproxy/services.cfg"
consumers.edge.external.files = ["/etc/haproxy/haproxy.cfg"]
consumers.edge.external.systemd_unit = "haproxy"
consumers.edge.external.stats_socket = "/run/haproxy/admin.sock"
"""
TAKEN_OVER = ("web", "api", "pg-primary")
"""Backends of the file that the registry has from now on."""

NEEDS_ROOT = re.compile(
    r"^    (?:(?:chroot|daemon|ulimit-n|maxconn +20000)\b.*|(?:user|group) +haproxy)\n", re.MULTILINE
)


class Edge:
    """The file, moved into a directory: its paths, its ports and its servers."""

    def __init__(self, directory: Path, origins: Origins) -> None:
        self.directory = directory
        self.own = directory / "etc/haproxy.cfg"
        self.fragment = directory / "etc/services.cfg"
        self.ports: dict[str, int] = {}
        for name in ("certs", "errors", "lists", "maps"):
            (directory / "etc" / name).mkdir(parents=True)
        trustme.CA().issue_cert("shop.example.com").private_key_and_cert_chain_pem.write_to_path(
            str(directory / "etc/certs/shop.pem")
        )
        for status in (400, 403, 500, 502, 503, 504):
            answer = f"HTTP/1.0 {status} Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            (directory / f"etc/errors/{status}.http").write_text(answer)
        for name in ("lists/blocked.lst", "lists/agents.lst", "maps/tenants.map", "maps/tools.map"):
            (directory / "etc" / name).write_text("")
        self.own.write_text(self._moved(EXISTING.read_text(), origins))
        self.fragment.touch()

    def configuration(self) -> dict[str, Any]:
        """Return the options that the five lines set."""
        found = tomllib.loads(self._with_paths(CONFIGURATION))["consumers"]["edge"]
        assert found.pop("plugin") == "haproxy"
        return dict(found)

    def remove(self, *sections: str) -> None:
        """Remove `backend` sections from the file, as the operator does who leaves them to the registry."""
        text = self.own.read_text()
        for name in sections:
            text, count = re.subn(rf"^backend {name}\n(?:[ \t].*\n|\n)*", "", text, flags=re.MULTILINE)
            assert count == 1
        self.own.write_text(text)

    def _with_paths(self, text: str) -> str:
        return text.replace("/etc/haproxy", f"{self.directory}/etc").replace("/run/haproxy", str(self.directory))

    def _moved(self, text: str, origins: Origins) -> str:
        text = re.sub(NEEDS_ROOT, "", self._with_paths(text))
        text = re.sub(r"(st_\w+\)) gt \d+", r"\1 gt 1000000", text)  # the load of a test is no abuse
        text = re.sub(r"10\.0\.[12]\.\d+:8080", lambda _: f"127.0.0.1:{origins[0].port}", text)
        text = re.sub(r"\b10\.(0\.\d+\.\d+:\d)", r"127.\1", text)
        return re.sub(r"((?:bind|lb2) )\S+?:(\d+)", lambda match: f"{match[1]}127.0.0.1:{self._port(match[2])}", text)

    def _port(self, port: str) -> int:
        return self.ports.setdefault(port, free_port())


@pytest.fixture
def edge(run_dir: Path, origins: Origins) -> Edge:
    return Edge(run_dir, origins)


@pytest.fixture
def running(haproxy: Path, edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExternalProcess]:
    """Run HAProxy with the file and the empty fragment, under a systemd as far as the plugin uses systemd."""
    with run_external(haproxy, edge.directory, (edge.own, edge.fragment)) as external:
        systemctl = tmp_path / "systemctl"
        pid = external.process.pid
        systemctl.write_text(f'#!/bin/sh\n[ "$*" = "reload haproxy" ] && kill -USR2 {pid}\n')
        systemctl.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        yield external


def test_the_file_is_that_of_a_real_operator() -> None:
    text = EXISTING.read_text()
    assert len(text.splitlines()) > 400
    assert len(CONFIGURATION.splitlines()) == 5


async def apply_if_requested(driver: ConsumerDriver) -> None:
    """Do what the core does after a health check."""
    await driver.consumer.health()
    assert await driver.is_apply_requested()
    driver.apply_requested.clear()
    await driver.apply_again()


async def test_an_operators_file_comes_under_discovery(
    drive: Drive, running: ExternalProcess, edge: Edge, origins: Origins, load: StartLoad, fetch: Fetch
) -> None:
    bind = f"127.0.0.1:{edge.ports['80']}"

    async def get(path: str, port: str = "80") -> tuple[int, str]:
        answer = await asyncio.to_thread(fetch, f"http://127.0.0.1:{edge.ports[port]}{path}")
        return answer.status, answer.body

    def registered(*web: int) -> list[Backend]:
        return [
            *(backend(service="web", id=f"web{each}", port=origins[each].port) for each in web),
            backend(service="api", id="api1", port=origins[3].port),
            backend(service="pg-primary", id="pg1", port=origins[3].port),
        ]

    await wait_until_served(fetch, bind, origins[0])  # by the servers in the file
    clients = load(f"http://{bind}/")
    async with drive(**edge.configuration()) as driver:
        await driver.apply(*registered(1))
        assert driver.has_logged(f"service 'web' is left out: {edge.own}:")
        assert (await get("/")) == (200, str(origins[0].port))

        edge.remove(*TAKEN_OVER)
        await apply_if_requested(driver)
        await wait_until_served(fetch, bind, origins[1])
        assert (await get("/api/x")) == (200, str(origins[3].port))
        reloads = await running.reloads()

        for web in ((1, 2), (2,), (1, 2)):
            await driver.apply(*registered(*web))
        assert await running.reloads() == reloads
        assert ways(driver) == {"runtime": 3, "reload": 2}
        assert (await get("/", "8404"))[0] == 401  # the operator's statistics page
        assert (await get("/lb-health")) == (200, "ok")

        await running.reload()  # the operator does
        assert (await driver.consumer.health()).ok
        assert (await get("/"))[0] == 200
        await driver.apply(*registered(2))
        await wait_until_served(fetch, bind, origins[2])
        assert ways(driver) == {"runtime": 4, "reload": 2}
        answered, failed = await asyncio.to_thread(clients.stop)
        assert (answered > 0, failed) == (True, 0)


async def test_a_fail_over(drive: Drive, running: ExternalProcess, edge: Edge, fetch: Fetch) -> None:
    url = f"http://127.0.0.1:{edge.ports['80']}/"
    edge.remove(*TAKEN_OVER)
    async with drive(**edge.configuration()) as driver:
        with serve_origin(Origin("stays")) as stays:
            with serve_origin(Origin("dies")) as dies:
                await driver.apply(*(backend(service="web", id=each.name, port=each.port) for each in (stays, dies)))
                answers = {(await asyncio.to_thread(fetch, url)).body for _ in range(4)}
                assert answers == {"stays", "dies"}
            assert {(await asyncio.to_thread(fetch, url)).body for _ in range(10)} == {"stays"}
