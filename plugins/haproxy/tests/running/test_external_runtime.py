"""An external HAProxy with a stats socket of level admin: servers change without a reload, and true to the file."""

import asyncio
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from external_haproxy import ExternalProcess
from haproxy_driver import Drive, StartLoad, differences, wait_until_served, ways
from haproxy_web import Fetch

from discovery import Backend, State
from discovery.testing import backend, eventually, free_port
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.runtime_api.read_back import LiveServer, parse_states

Origins = tuple[Backend, ...]
Options = Callable[..., dict[str, Any]]


@pytest.fixture
def options(external: ExternalProcess, bind: str) -> Options:
    """Return a function that returns the options of a consumer for the external HAProxy."""

    def options(**more: Any) -> dict[str, Any]:
        return {
            "services": {"web": {"bind": bind, "check": {"interval": "200ms"}}},
            "external": {
                "path": external.config,
                "adopt": True,
                "stats_socket": external.stats_socket,
                "command": ["kill", "-USR2", str(external.process.pid)],
                **more,
            },
        }

    return options


async def servers(external: ExternalProcess) -> dict[tuple[str, str], LiveServer]:
    """Return the servers of the external HAProxy."""
    return parse_states(await ControlSocket(external.stats_socket, master=False).server_states())


async def is_true(external: ExternalProcess, path: Path) -> bool:
    """Report whether the servers of the external HAProxy are those of the file `path`."""
    return not differences(path, await servers(external))


async def test_servers_of_an_external_haproxy_change_without_a_reload(
    drive: Drive,
    external: ExternalProcess,
    options: Options,
    origins: Origins,
    load: StartLoad,
    fetch: Fetch,
    bind: str,
) -> None:
    async with drive(**options()) as driver:
        await driver.apply(origins[0])
        running = load(f"http://{bind}/")
        before = await external.reloads()
        moved = backend(id=origins[0].id, port=origins[3].port)
        drained = backend(port=origins[1].port, state=State.DRAINING)
        for snapshot in ((origins[0], origins[1]), (moved, origins[1]), (origins[2], drained), (origins[2],)):
            await driver.apply(*snapshot)
            assert await is_true(external, external.config)
        assert await external.reloads() == before
        await wait_until_served(fetch, bind, origins[2])
        requests, failed = await asyncio.to_thread(running.stop)
        assert (requests > 0, failed) == (True, 0)
        assert ways(driver) == {"runtime": 4, "reload": 1}
        assert (await driver.consumer.inspect())["last_change"]["way"] == "runtime"
    async with drive(**options()) as driver:  # a new daemon finds what HAProxy serves
        await driver.apply(origins[2])
        await driver.apply(origins[1])
        assert ways(driver) == {"runtime": 1, "reload": 0}
        assert await is_true(external, external.config)


async def test_a_reload_by_anyone_leads_to_the_same_servers(
    drive: Drive, external: ExternalProcess, options: Options, origins: Origins
) -> None:
    control = ControlSocket(external.stats_socket, master=False)

    async def worker() -> str:
        return next(line for line in (await control.send("show info")).splitlines() if line.startswith("Pid:"))

    async with drive(**options()) as driver:
        await driver.apply(origins[0])
        await driver.apply(*origins[:2])
        before = await worker()
        await external.reload()

        async def is_replaced() -> bool:
            return await worker() != before and (await driver.consumer.health()).ok

        await eventually(is_replaced, "another worker")
        assert await is_true(external, external.config)
        await driver.apply(*origins[1:3])
        assert ways(driver) == {"runtime": 2, "reload": 1}
        assert await is_true(external, external.config)


@pytest.mark.parametrize("by_master", [False, True])
async def test_an_external_haproxy_that_is_told_to_stop_does_not_wait_for_us(
    drive: Drive, external: ExternalProcess, options: Options, origins: Origins, by_master: bool
) -> None:
    """A connection to its socket keeps a HAProxy alive that ends in order: a restart would take `hard-stop-after`."""
    way = {"command": None, "master_socket": external.master_socket} if by_master else {}
    async with drive(**options(**way)) as driver:
        await driver.apply(origins[0])
        await driver.apply(*origins[:2])
        assert ways(driver)["runtime"] == 1
        assert (await driver.consumer.health()).ok
        # What serves may be there before the master, which until then forgets a request to stop: its answer is awaited.
        assert await external.reloads() == 1
        external.process.send_signal(signal.SIGUSR1)

        async def is_gone() -> bool:
            await driver.consumer.health()
            return external.process.poll() is not None

        await eventually(is_gone, "HAProxy to end", timeout=20)


async def test_a_reload_that_undoes_a_change_is_noticed(
    drive: Drive, external: ExternalProcess, options: Options, origins: Origins
) -> None:
    async with drive(**options()) as driver:
        await driver.apply(origins[0])
        old = external.config.read_text()
        await driver.apply(*origins[:2])
        new = external.config.read_text()
        external.config.write_text(old)  # as read by a reload that began before the change
        await external.reload()

        async def is_noticed() -> bool:
            await driver.consumer.health()
            return await driver.is_apply_requested()

        await eventually(is_noticed, "a request for a deployment")
        external.config.write_text(new)
        await driver.apply(*origins[:2])
        assert await is_true(external, external.config)
        assert len(await servers(external)) == 2


async def test_certificates_and_routes_of_an_external_haproxy_change_without_a_reload(
    drive: Drive,
    external: ExternalProcess,
    options: Options,
    origins: Origins,
    fetch: Fetch,
    bind: str,
    tmp_path: Path,
) -> None:
    certificate, tls = tmp_path / "site.pem", f"127.0.0.1:{free_port()}"
    authority = trustme.CA()

    def renew() -> bytes:
        leaf = authority.issue_cert("site.example")
        leaf.private_key_and_cert_chain_pem.write_to_path(certificate)
        return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())

    def services(host: str) -> dict[str, Any]:
        binds = [bind, {"address": tls, "certificate": str(certificate)}]
        return {"web": {"bind": binds}, "other": {"bind": binds, "hosts": host}}

    renew()
    async with drive(**{**options(), "services": services("a.example")}) as driver:
        await driver.apply(origins[0], backend("other", port=origins[1].port))
        before = await external.reloads()
        renewed = renew()
        changed = driver.configured(**{**options(), "services": services("b.example")})
        assert await driver.consumer.reconfigure(changed)
        await driver.apply_again()
        assert (await asyncio.to_thread(fetch, f"http://{bind}/", Host="b.example")).body == str(origins[1].port)
        assert (await asyncio.to_thread(fetch, f"http://{bind}/", Host="a.example")).body == str(origins[0].port)
        host, _, port = tls.rpartition(":")
        shown = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
        assert ssl.PEM_cert_to_DER_cert(shown) == renewed
        assert await external.reloads() == before
        assert ways(driver) == {"runtime": 1, "reload": 1}


async def test_the_old_workers_of_an_external_haproxy_are_counted(
    drive: Drive, external: ExternalProcess, options: Options, origins: Origins
) -> None:
    way = {"command": None, "master_socket": external.master_socket}
    async with drive(**{**options(**way), "max_old_workers": 1}) as driver:
        await driver.apply(origins[0])

        async def is_counted() -> bool:
            await driver.consumer.health()
            return [each.value for each in driver.consumer.metrics() if each.name == "old_workers"] == [0]

        await eventually(is_counted, "the worker of before the first reload to end")
        assert "mworker-max-reloads 1" in external.config.read_text()


async def test_a_new_daemon_changes_no_server_as_a_person_has_edited_the_file(
    drive: Drive, external: ExternalProcess, options: Options, origins: Origins
) -> None:
    one, two, edited = backend(id="one", port=origins[0].port), backend(id="two", port=origins[1].port), origins[2].port
    async with drive(**options()) as driver:
        await driver.apply(one)
        await driver.apply(one, two)
    text = external.config.read_text()
    external.config.write_text(text.replace(f"127.0.0.1:{two.port} ", f"127.0.0.1:{edited} "))
    async with drive(**options()) as driver:
        assert (await servers(external))["web", "two"].port == two.port
        await driver.apply(one, two)
        assert await is_true(external, external.config)
        assert external.config.read_text() == text
        assert ways(driver) == {"runtime": 1, "reload": 0}
