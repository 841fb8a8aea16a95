"""A fragment: the plugin writes `backend` sections into a file beside the operator's own files."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from external_haproxy import ExternalProcess, run_external
from haproxy_driver import Drive, StartLoad, wait_until_served, ways
from haproxy_web import Fetch

from discovery import ApplyError, Backend
from discovery.testing import backend, eventually, free_port
from discovery_haproxy.limits import Limits
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.text.configuration import parse

Origins = tuple[Backend, ...]
Options = Callable[..., dict[str, Any]]

OWN = """\
global
    stats socket {directory}/stats.sock mode 600 level admin
    stats socket {directory}/operator.sock mode 600 level operator
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend edge
    bind {bind}
    use_backend orders if {{ path_beg /orders }}
    default_backend web
"""
BEHIND = "backend behind\n    http-request return status 200\n"


@pytest.fixture
def own(run_dir: Path, bind: str) -> Path:
    """Return the operator's file, which names the backends `web` and `orders`."""
    path = run_dir / "own.cfg"
    path.write_text(OWN.format(directory=run_dir, bind=bind))
    return path


@pytest.fixture
def fragment(run_dir: Path) -> Path:
    """Return the path of the fragment, an empty file in a directory with another file of the operator's behind it."""
    directory = run_dir / "conf.d"
    directory.mkdir()
    (directory / "zz-behind.cfg").write_text(BEHIND)
    path = directory / "services.cfg"
    path.touch()
    return path


@pytest.fixture
def edge(haproxy: Path, run_dir: Path, own: Path, fragment: Path) -> Iterator[ExternalProcess]:
    """Run HAProxy with the operator's file, which is complete with a fragment only, and with the directory."""
    fragment.write_text("backend web\nbackend orders\n")  # as a HAProxy that runs with backends of the operator's
    with run_external(haproxy, run_dir, (own, fragment.parent)) as external:
        fragment.write_text("")
        yield external


@pytest.fixture
def options(edge: ExternalProcess, own: Path, fragment: Path) -> Options:
    """Return a function that returns the options of a consumer for the fragment."""

    def options(**more: Any) -> dict[str, Any]:
        external = {
            "fragment": fragment,
            "files": [own, fragment.parent],
            "stats_socket": edge.stats_socket,
            "command": ["kill", "-USR2", str(edge.process.pid)],
        }
        return {"external": {**external, **more}}

    return options


def web(origin: Backend) -> Backend:
    return backend(service="web", id=origin.id, port=origin.port)


async def test_a_fragment_has_backends_alone_and_follows_the_registry(
    drive: Drive,
    edge: ExternalProcess,
    options: Options,
    fragment: Path,
    origins: Origins,
    load: StartLoad,
    fetch: Fetch,
    bind: str,
) -> None:
    async with drive(**options()) as driver:
        await driver.apply(web(origins[0]))
        await wait_until_served(fetch, bind, origins[0])
        text = fragment.read_text()
        assert {line.split()[0] for line in text.splitlines() if line[:1].isalpha()} == {"global", "backend"}
        assert set(parse(text).backends) == {"web", "orders"}  # no service `orders` is registered
        assert (await asyncio.to_thread(fetch, f"http://{bind}/orders")).status == 503
        running = load(f"http://{bind}/")
        for number in (1, 2, 3):
            await driver.apply(web(origins[number]))
            await wait_until_served(fetch, bind, origins[number])
        assert ways(driver) == {"runtime": 3, "reload": 1}
        await driver.apply(web(origins[3]), backend(service="orders", port=origins[1].port))
        assert (await asyncio.to_thread(fetch, f"http://{bind}/orders")).body == str(origins[1].port)
        assert ways(driver) == {"runtime": 4, "reload": 1}
        _, failed = await asyncio.to_thread(running.stop)
        assert failed == 0


async def test_a_new_daemon_and_a_reload_by_the_operator_find_the_same_servers(
    drive: Drive, edge: ExternalProcess, options: Options, origins: Origins
) -> None:
    async with drive(**options()) as driver:
        await driver.apply(*map(web, origins[:1]))
        await driver.apply(*map(web, origins[:2]))
    before = await edge.reloads()
    async with drive(**options()) as driver:
        await driver.apply(*map(web, origins[:2]))
        assert await edge.reloads() == before
        await edge.reload()
        assert (await driver.consumer.health()).ok
        await driver.apply(*map(web, origins[:2]))
        assert ways(driver) == {"runtime": 0, "reload": 0}


async def test_a_refused_line_of_a_service_affects_that_service_alone(
    drive: Drive, edge: ExternalProcess, options: Options, origins: Origins, fetch: Fetch, bind: str
) -> None:
    services = {"web": {}, "orders": {"backend_lines": "no-such-keyword"}}
    async with drive(**options(), services=services) as driver:
        await driver.apply(web(origins[0]), backend(service="orders", port=origins[1].port))
        await wait_until_served(fetch, bind, origins[0])
        assert [each["part"] for each in (await driver.consumer.inspect())["refused"]] == ["service 'orders'"]


async def test_a_fault_of_the_operators_file_is_named_and_servers_follow_the_registry(
    drive: Drive,
    edge: ExternalProcess,
    options: Options,
    own: Path,
    origins: Origins,
    fetch: Fetch,
    bind: str,
) -> None:
    async with drive(**options(), limits=Limits(check_delay=0.05)) as driver:
        await driver.apply(web(origins[0]))
        good = own.read_text()
        own.write_text(good.replace("default_backend", "defult_backend"))
        await driver.apply(web(origins[2]))

        async def is_told() -> bool:
            return "own.cfg:12" in ((await driver.consumer.health()).detail or "")

        await eventually(is_told, "the health to name the line")
        await driver.apply(web(origins[1]))
        await wait_until_served(fetch, bind, origins[1])
        with pytest.raises(ApplyError, match=r"own.cfg:12\].*unknown keyword 'defult_backend'"):
            await driver.apply(web(origins[1]), backend(service="new", port=origins[2].port))
        await wait_until_served(fetch, bind, origins[1])
        await driver.consumer.health()
        driver.apply_requested.clear()
        own.write_text(good)
        await driver.consumer.health()
        assert await driver.is_apply_requested()
        await driver.apply(web(origins[1]), backend(service="new", port=origins[2].port))


async def test_servers_follow_the_registry_while_the_operators_defaults_have_a_fault(
    drive: Drive, edge: ExternalProcess, options: Options, own: Path, origins: Origins, fetch: Fetch, bind: str
) -> None:
    async with drive(**options()) as driver:
        await driver.apply(web(origins[0]))
        good = own.read_text()
        own.write_text(good.replace("timeout connect", "timeout conect"))
        await driver.apply(web(origins[1]))
        await wait_until_served(fetch, bind, origins[1])
        await driver.apply(web(origins[2]))
        await wait_until_served(fetch, bind, origins[2])
        assert ways(driver) == {"runtime": 2, "reload": 1}
        with pytest.raises(ApplyError, match=r"own.cfg:6\].*conect"):
            await driver.apply(web(origins[2]), backend(service="new", port=origins[0].port))
        own.write_text(good.replace("timeout connect 1s", "timeout connect 2s"))
        await driver.apply(web(origins[2]), backend(service="new", port=origins[0].port))
        assert ways(driver) == {"runtime": 2, "reload": 2}


async def test_the_operators_own_backend_wins_over_a_service_of_that_name(
    drive: Drive, edge: ExternalProcess, options: Options, own: Path, fragment: Path, origins: Origins
) -> None:
    text = own.read_text()
    own.write_text(f"{text}backend web\n    http-request return status 418\n")
    async with drive(**options()) as driver:
        await driver.apply(web(origins[0]))
        assert set(parse(fragment.read_text()).backends) == {"orders"}
        assert driver.has_logged(
            f"service 'web' is left out: {own}:{len(text.splitlines()) + 1} has a section of that name"
        )
        own.write_text(text)
        await driver.consumer.health()
        assert await driver.is_apply_requested()
        await driver.apply(web(origins[0]))
        assert set(parse(fragment.read_text()).backends) == {"orders", "web"}


async def test_added_servers_inherit_from_the_operators_defaults(
    drive: Drive, edge: ExternalProcess, options: Options, own: Path, origins: Origins
) -> None:
    async def slots() -> set[str]:
        stat = await ControlSocket(edge.stats_socket, master=False).send("show stat")
        rows = [line.split(",") for line in stat.splitlines() if line.startswith("web,") and "BACKEND" not in line]
        return {row[6] for row in rows}  # the limit of connections of each server

    own.write_text(own.read_text().replace("defaults\n", "defaults\n    default-server maxconn 77\n"))
    async with drive(**options()) as driver:
        await driver.apply(web(origins[0]))
        await driver.apply(*map(web, origins[:2]))
        assert (ways(driver), await slots()) == ({"runtime": 1, "reload": 1}, {"77"})
        own.write_text(own.read_text().replace("77", "78"))
        await driver.apply(*map(web, origins[:3]))
        assert (ways(driver), await slots()) == ({"runtime": 1, "reload": 2}, {"78"})


async def test_a_socket_without_the_level_admin_is_told(
    drive: Drive, edge: ExternalProcess, options: Options, origins: Origins
) -> None:
    socket = edge.directory / "operator.sock"
    async with drive(**options(stats_socket=socket)) as driver:
        await driver.apply(*map(web, origins[:1]))
        await driver.apply(*map(web, origins[:2]))
        assert ways(driver) == {"runtime": 0, "reload": 2}
        told = f"{socket}: the stats socket lets discovery only read: add `level admin`"
        health = await driver.consumer.health()
        assert (health.ok, told in health.detail, driver.has_logged(told)) == (True, True, True)


async def test_a_haproxy_that_does_not_load_the_fragment_is_told(
    drive: Drive, external: ExternalProcess, origins: Origins, tmp_path: Path
) -> None:
    fragment = tmp_path / "services.cfg"
    way = {"command": ["kill", "-USR2", str(external.process.pid)], "stats_socket": external.stats_socket, "timeout": 1}
    async with drive(external={"fragment": fragment, "files": external.config, **way}) as driver:
        with pytest.raises(ApplyError, match=rf"HAProxy does not load {fragment}: .*`-f {fragment}`"):
            await driver.apply(web(origins[0]))


async def test_a_fragment_of_a_person_is_not_overwritten(
    drive: Drive, edge: ExternalProcess, options: Options, fragment: Path, origins: Origins
) -> None:
    fragment.write_text("backend web\nbackend orders\n")
    async with drive(**options()) as driver:
        with pytest.raises(ApplyError, match=r"was not written by discovery.*or set external.fragment to another file"):
            await driver.apply(web(origins[0]))
    async with drive(**options(adopt=True)) as driver:
        await driver.apply(web(origins[0]))
        assert fragment.with_name("services.cfg.before-discovery").read_text() == "backend web\nbackend orders\n"


async def test_a_service_with_a_bind_has_a_frontend(
    drive: Drive, edge: ExternalProcess, options: Options, origins: Origins, fetch: Fetch
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    async with drive(**options(), services={"web": {"bind": bind}}) as driver:
        await driver.apply(web(origins[0]))
        await wait_until_served(fetch, bind, origins[0])


async def test_a_server_that_the_operators_lines_name_may_leave(
    drive: Drive,
    edge: ExternalProcess,
    options: Options,
    own: Path,
    fragment: Path,
    origins: Origins,
    fetch: Fetch,
    bind: str,
) -> None:
    text = own.read_text()
    rule = "    http-request return status 200 content-type text/plain string both if { srv_is_up(web/b) }\n"
    a, b = (backend(service="web", id=name, port=origin.port) for name, origin in zip("ab", origins, strict=False))

    async def body() -> str:
        return (await asyncio.to_thread(fetch, f"http://{bind}/")).body

    async with drive(**options()) as driver:
        await driver.apply(a)
        own.write_text(text.replace("    use_backend", f"{rule}    use_backend"))
        await driver.apply(a)
        assert "server b 127.0.0.1:1 disabled" in fragment.read_text()
        assert await body() == str(a.port)
        await driver.apply(a, b)
        assert await body() == "both"
        await driver.apply(a)
        await wait_until_served(fetch, bind, a)
        await driver.apply(backend(service="web", id="a", port=origins[2].port))
        await wait_until_served(fetch, bind, origins[2])
        assert ways(driver)["runtime"] == 1
