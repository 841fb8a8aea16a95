"""The real Envoy: routes, balancing, checks and changes under load, over both variants of the protocol."""

import asyncio
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xds_driving import Driven, driving
from xds_envoy import Origin, envoy, web_origins

from discovery.testing import backend, eventually, free_port, within
from discovery_xds.resources import builder

pytestmark = pytest.mark.swap
SOTW = pytest.mark.parametrize("sotw", [False, True], ids=["delta", "sotw"])


def at(origin: Origin, **options: Any) -> Any:
    return backend(id=origin.name, port=origin.port, **options)


async def live(driven: Driven, revision: int) -> None:
    """Wait until every client has applied the revision."""

    async def applied() -> bool:
        nodes = await driven.nodes()
        return bool(nodes) and all(each["live_revision"] == revision for each in nodes)

    await eventually(applied, f"revision {revision} is live", timeout=30)


@SOTW
async def test_envoy_follows_backends_weights_and_draining(sotw: bool, tmp_path: Path) -> None:
    async with web_origins("a", "b") as (a, b), envoy(tmp_path) as proxy, driving(bind=proxy.bind) as driven:
        await driven.apply(at(a))
        await proxy.start(driven.address, sotw=sotw)
        await proxy.answers("a")
        await driven.apply(at(a, weight=1), at(b, weight=3))
        await proxy.answers("b")
        await live(driven, 2)
        answers = [await proxy.get() for _ in range(200)]
        assert 125 < answers.count((200, "b")) < 175  # 150 expected
        await driven.apply(at(a, state="draining"), at(b))
        await live(driven, 3)
        assert {await proxy.get() for _ in range(20)} == {(200, "b")}
        await driven.apply(at(a, state="draining"))
        await live(driven, 4)
        await proxy.answers("503")  # `web` has no backend that accepts work, but a route


@SOTW
async def test_services_come_and_go_with_their_routes(sotw: bool, tmp_path: Path) -> None:
    async with web_origins("a", "b") as (a, b), envoy(tmp_path) as proxy, driving(bind=proxy.bind) as driven:
        await driven.apply(at(a))
        await proxy.start(driven.address, sotw=sotw)
        await proxy.answers("a", host="any")
        await driven.apply(at(a), at(b, service="api"))
        await proxy.answers("b", host="api.example")
        assert await proxy.get(host="web") == (200, "a")
        assert (await proxy.get(host="any"))[0] == 404
        await driven.apply(at(b, service="api"))
        await proxy.answers("b", host="any")
        await live(driven, 3)
        assert "web" not in str(await proxy.config("clusters"))


async def test_requests_are_routed_by_host_and_path_on_several_addresses(tmp_path: Path) -> None:
    port = free_port()
    async with web_origins("a", "b", "c", "d") as origins, envoy(tmp_path) as proxy:
        services = {
            "a": {"hosts": ["example.com", "*.example.com"]},
            "b": {"hosts": "example.com", "path_prefix": "/api"},
            "c": {"hosts": "other.*", "balance": "leastconn", "check": {"path": "/up"}},
            "d": {"bind": f"127.0.0.1:{port}", "mode": "tcp", "balance": "source"},
        }
        async with driving(bind=proxy.bind, services=services) as driven:
            await driven.apply(*(at(each, service=each.name) for each in origins))
            await proxy.start(driven.address)
            await proxy.answers("a", host="example.com")
            await proxy.answers("c", host="other.test:8080")
            await proxy.answers("d", port=port)
            assert await proxy.get("/api/x", "example.com") == (200, "b")
            assert await proxy.get("/apix", "EXAMPLE.com") == (200, "a")
            assert await proxy.get("/api", "sub.example.com") == (200, "a")
            assert (await proxy.get(host="unknown.test"))[0] == 404
            assert (await driven.nodes())[0]["rejected"] == {}


@pytest.mark.parametrize(
    "options",
    [
        {"balance": "uri"},
        {"balance": "url_param user"},
        {"balance": "hdr(x-user)", "http2": True},
        {"balance": "random", "check": {"send": "PING\r\n", "expect": "PONG", "port": 1}},
        {"check": {"path": "/", "method": "HEAD", "status": "200,300-399", "host": "x:1"}, "path_prefix": ["/a", "/b"]},
        {"hosts": ["a", "a.*", "*.a", "*"]},
        {"mode": "tcp", "bind": ["unix:{directory}/web.sock", "[::1]:{port}"]},
    ],
    ids="-".join,
)
async def test_envoy_accepts_every_option(options: dict[str, Any], tmp_path: Path) -> None:
    if bind := options.get("bind"):
        options = {**options, "bind": [each.format(directory=tmp_path, port=free_port()) for each in bind]}
    config = {"services": {"web": options}, "locality": {"zone": "zone"}}
    async with envoy(tmp_path) as proxy, driving(bind=proxy.bind, **config) as driven:
        await driven.apply(backend(labels={"zone": 'hostile "\\ %s {}'}), backend(id="b", host="::1"))
        await proxy.start(driven.address)
        await live(driven, 1)


async def test_requests_for_a_path_go_to_one_backend_whatever_their_query(tmp_path: Path) -> None:
    async with web_origins("a", "b", "c") as origins, envoy(tmp_path) as proxy:
        services = {"web": {"balance": "uri", "check": False}}
        async with driving(bind=proxy.bind, services=services) as driven:
            await driven.apply(*map(at, origins))
            await proxy.start(driven.address)
            await live(driven, 1)
            await proxy.answers("200")
            assert len({await proxy.get(f"/page?number={number}") for number in range(30)}) == 1
            assert {await proxy.get(f"/page-{number}") for number in range(60)} == {(200, each) for each in "abc"}


@pytest.fixture
def many_files() -> Iterator[None]:
    """The limit of open files is that of servers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000 if hard == resource.RLIM_INFINITY else min(10_000, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_two_thousand_connections_at_a_time_are_served_and_old_clients_of_http(tmp_path: Path) -> None:
    """By default Envoy closes connections beyond 1,024, and refuses HTTP/1.0."""
    end = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await end.wait()
        writer.close()

    async def greeting(port: int) -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(within(20)):
            return await reader.read(100), writer

    port = free_port()
    server = await asyncio.start_server(greet, "127.0.0.1", 0, backlog=4096)
    async with server, envoy(tmp_path) as proxy:
        services = {
            "web": {"mode": "tcp", "bind": f"127.0.0.1:{port}", "check": False},
            "api": {"service": "web", "check": False},
        }
        async with driving(bind=proxy.bind, services=services) as driven:
            await driven.apply(backend(port=server.sockets[0].getsockname()[1]))
            await proxy.start(driven.address)
            await live(driven, 1)
            found = []
            for _ in range(20):
                found += await asyncio.gather(*(greeting(port) for _ in range(100)))
            assert {first for first, _ in found} == {b"HTTP/1.0 200 OK\r\n\r\nhello"}
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"GET / HTTP/1.0\r\nHost: api\r\n\r\n")
            assert b" 200 OK" in await reader.readline()
            end.set()
            for each in (writer, *(writer for _, writer in found)):
                each.close()


async def test_a_backend_that_fails_its_check_gets_no_requests(tmp_path: Path) -> None:
    async with web_origins("a") as (a,), envoy(tmp_path) as proxy:
        services = {"web": {"check": {"interval": "100ms", "fall": 1}}}
        async with driving(bind=proxy.bind, services=services) as driven:
            await driven.apply(at(a), backend(id="dead", port=free_port()))
            await proxy.start(driven.address)
            await proxy.answers("a")

            async def all_good() -> bool:
                return {await proxy.get() for _ in range(20)} == {(200, "a")}

            await eventually(all_good, timeout=30)


@SOTW
async def test_no_request_fails_through_50_changes(sotw: bool, tmp_path: Path) -> None:
    async with web_origins("a", "b", "c") as origins, envoy(tmp_path) as proxy, driving(bind=proxy.bind) as driven:
        backends = [at(each) for each in origins]
        await driven.apply(*backends)
        await proxy.start(driven.address, sotw=sotw)
        await proxy.answers("a")
        stop, failed, done = asyncio.Event(), [], [0]

        async def load() -> None:
            while not stop.is_set():
                answer = await proxy.get()
                done[0] += 1
                if answer[0] != 200:
                    failed.append(answer)

        loads = [asyncio.ensure_future(load()) for _ in range(4)]
        for number in range(50):
            # All backends but one, and each seventh time other backends alone.
            keep = [number % 3] if number % 7 == 0 else [(number + 1) % 3, (number + 2) % 3]
            others = [at(origins[2], service="other")] if number % 5 == 0 else []
            await driven.apply(*(backends[each] for each in keep), *others)
            await live(driven, number + 2)
            before = done[0]
            await eventually(lambda before=before: done[0] > before + 20)  # type: ignore[misc]
        stop.set()
        await asyncio.gather(*loads)
        assert (failed, driven.figure("nacks")) == ([], 0)


@SOTW
async def test_a_rejected_resource_hurts_its_service_alone(
    sotw: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a fault of the plugin would: endpoints that Envoy refuses, among good ones in one response."""
    build = builder.Endpoints.build

    def faulty(self: Any, *arguments: Any) -> Any:
        assignment = build(self, *arguments)
        if self._name != "bad":
            return assignment
        return assignment._replace(contents=assignment.contents.replace(b"127.0.0.9", b"127.0.0.x"))

    monkeypatch.setattr(builder.Endpoints, "build", faulty)
    async with web_origins("a", "b") as (a, b), envoy(tmp_path) as proxy, driving(bind=proxy.bind) as driven:
        names = "ant", "bad", "cat"
        await driven.apply(*(at(a, service=name) for name in names))
        await proxy.start(driven.address, sotw=sotw)
        for name in names:
            await proxy.answers("a", host=name)
        await live(driven, 1)
        await driven.apply(
            at(b, service="ant"), at(b, service="cat"), backend(id="x", service="bad", host="127.0.0.9", port=b.port)
        )
        await proxy.answers("b", host="ant")
        await proxy.answers("b", host="cat")
        assert await proxy.get(host="bad") == (200, "a")  # what it had

        async def told() -> bool:
            return list((await driven.consumer.health()).problems) == ["eds bad"]

        await eventually(told, timeout=30)
        (node,) = await driven.nodes()
        assert list(node["rejected"]) == ["eds bad"]
        assert "127.0.0.x" in node["rejected"]["eds bad"]
        assert node["live_revision"] == 1
        await driven.apply(*(at(b, service=name) for name in names))
        await proxy.answers("b", host="bad")
        await live(driven, 3)
        assert (await driven.consumer.health()).state == "ok"


async def test_envoy_keeps_its_configuration_while_no_daemon_runs_and_follows_the_next(tmp_path: Path) -> None:
    async with web_origins("a", "b") as (a, b), envoy(tmp_path) as proxy:
        async with driving(bind=proxy.bind) as driven:
            await driven.apply(at(a))
            await proxy.start(driven.address)
            await proxy.answers("a")
        assert await proxy.get() == (200, "a")
        async with driving(bind=proxy.bind, listen=driven.address) as successor:
            await eventually(lambda: successor.figure("streams") == 1, timeout=60)
            assert await proxy.get() == (200, "a")  # before its first snapshot a daemon answers nothing
            await successor.apply(at(b))
            await proxy.answers("b")


async def test_ten_thousand_endpoints_of_one_cluster(tmp_path: Path) -> None:
    async with web_origins("a") as (a,), envoy(tmp_path) as proxy:
        services = {"web": {"check": False}}
        async with driving(bind=proxy.bind, services=services) as driven:
            await driven.apply(at(a))
            await proxy.start(driven.address)
            await proxy.answers("a")
            many = [backend(id=f"b{n}", host=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(10_000)]
            await driven.apply(*many)
            await live(driven, 2)
            await driven.apply(at(a))
            await proxy.answers("a")
