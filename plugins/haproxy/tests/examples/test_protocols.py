"""The examples for TLS, WebSockets and gRPC: traffic, a change of the registry, and a fail-over."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager

import grpc
import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web
from haproxy_example import TIMEOUT, Example
from stand_ins import Servers
from web_client import Certificates, get

from discovery.testing import eventually, eventually_sync, within

pytestmark = pytest.mark.warm

Prepare = Callable[..., Example]


def test_sni(example: Prepare, servers: Servers, certificates: Certificates) -> None:
    edge = example("sni.toml")
    names = {"shop": "shop.example.com", "blog": "*.blog.example.com", "vpn": "vpn.example.com"}
    webs = {name: servers.web(name, certificates.server(host)) for name, host in names.items()}
    edge.register("shop", "shop1", webs["shop"].address)
    edge.register("vpn", "vpn1", webs["vpn"].address)
    edge.run()

    def ask(host: str) -> str:
        return get(edge.ports[443], host=host, tls=certificates.client()).body

    eventually_sync(lambda: ask("shop.example.com") == "shop", "the shop", TIMEOUT)
    assert ask("vpn.example.com") == "vpn"
    assert ask("a.blog.example.com") == ""
    before = edge.changes()
    edge.register("blog", "blog1", webs["blog"].address)
    eventually_sync(lambda: ask("a.blog.example.com") == "blog", "the blog", TIMEOUT)
    second = servers.web("shop", certificates.server("shop.example.com"))
    edge.register("shop", "shop2", second.address)
    edge.assert_no_reload(before, 2)
    webs["shop"].kill()
    assert [ask(f"{name}.example.com") for name in ("shop", "vpn") * 5] == ["shop", "vpn"] * 5
    assert edge.changes()["reload"] == before["reload"]


@asynccontextmanager
async def chat(name: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Serve WebSockets that answer each message with the name. Yield the address and a function that kills the server.

    Killed means that nothing listens and that every WebSocket is cut.
    """
    transports: list[asyncio.Transport] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            return web.Response()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert request.transport is not None
        transports.append(request.transport)
        async for message in socket:
            await socket.send_str(f"{name} {message.data}")
        return socket

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = site._server
    assert isinstance(server, asyncio.Server)

    def kill() -> None:
        server.close()
        for each in transports:
            each.abort()

    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}", kill
    finally:
        kill()
        await runner.cleanup()


async def ask(socket: ClientWebSocketResponse) -> str:
    """Return the name of the server that answers a message; empty if the WebSocket was cut."""
    if socket.closed:
        return ""
    await socket.send_str("hello")
    answer = await socket.receive(timeout=within(20))
    return str(answer.data).partition(" ")[0] if answer.type is WSMsgType.TEXT else ""


async def test_websockets(example: Prepare) -> None:
    edge = example("websockets.toml")
    async with AsyncExitStack() as stack:
        (first, kill_first), (second, kill_second), (third, _) = [
            await stack.enter_async_context(chat(name)) for name in ("one", "two", "three")
        ]
        client = await stack.enter_async_context(ClientSession())

        open_sockets = []

        async def connect() -> ClientWebSocketResponse:
            open_sockets.append(await client.ws_connect(f"http://127.0.0.1:{edge.ports[8080]}/"))
            return open_sockets[-1]

        async def answered_by(*names: str) -> bool:
            return {await ask(await connect()) for _ in range(4)} == set(names)

        edge.register("chat", "one", first)
        await asyncio.to_thread(edge.run)
        await eventually(lambda: answered_by("one"), "the first server", TIMEOUT)
        before, early = edge.changes(), await connect()
        edge.register("chat", "two", second)
        await asyncio.to_thread(edge.assert_no_reload, before)
        assert await answered_by("two")  # the server with the fewest WebSockets
        edge.withdraw("chat", "one")
        await asyncio.to_thread(edge.assert_no_reload, before, 2)
        assert await ask(early) == "one"
        edge.register("chat", "three", third)
        await asyncio.to_thread(edge.assert_no_reload, before, 3)
        assert await answered_by("three")
        cut = [await connect() for _ in range(8)]
        assert {await ask(each) for each in cut} <= {"two", "three"}
        kill_second()
        assert await answered_by("three")
        assert await ask(early) == "one"
        kill_first()
        assert await ask(early) == ""
        await asyncio.to_thread(edge.assert_no_reload, before, 3)


@contextmanager
def greeter(name: str) -> Iterator[tuple[str, grpc.Server]]:
    """Serve gRPC with one method that returns the name, and one that streams the name forever."""

    def say_hello(request: bytes, context: grpc.ServicerContext) -> bytes:
        return name.encode()

    def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        while context.is_active():
            yield name.encode()

    methods = {
        "SayHello": grpc.unary_unary_rpc_method_handler(say_hello),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("helloworld.Greeter", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        server.stop(None).wait()


def say(channel: grpc.Channel) -> str:
    """Return the name of the server that answers a call."""
    call = channel.unary_unary("/helloworld.Greeter/SayHello")
    return bytes(call(b"", timeout=within(20), wait_for_ready=True)).decode()


def wait_for_answers(channel: grpc.Channel, *names: str) -> None:
    """Wait until each of these servers, and no other, answers calls on one channel."""
    eventually_sync(lambda: {say(channel) for _ in range(8)} == set(names), f"answers of {names}", TIMEOUT)


def test_grpc(example: Prepare, certificates: Certificates) -> None:
    edge = example("grpc.toml", replaced={"/etc/ssl/grpc.pem": certificates.pem("localhost")})
    with ExitStack() as stack:
        (first, one), (second, _) = (stack.enter_context(greeter(name)) for name in ("one", "two"))
        edge.register("greeter", "one", first)
        edge.run()
        plain = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{edge.ports[50051]}"))
        credentials = grpc.ssl_channel_credentials(certificates.root())
        secure = stack.enter_context(grpc.secure_channel(f"localhost:{edge.ports[50443]}", credentials))

        assert [say(plain), say(secure)] == ["one", "one"]
        stream = plain.unary_stream("/helloworld.Greeter/Stream")(b"")
        assert next(stream) == b"one"
        before = edge.changes()
        edge.register("greeter", "two", second)
        eventually_sync(lambda: say(secure) == "two", "a call at the other backend", TIMEOUT)
        edge.withdraw("greeter", "one")
        edge.await_changes(before, 2)  # the stream alone keeps new calls away from its server
        wait_for_answers(plain, "two")
        wait_for_answers(secure, "two")
        assert next(stream) == b"one"
        edge.register("greeter", "one", first)
        stream.cancel()
        wait_for_answers(plain, "one", "two")
        if edge.version >= (2, 8):  # before, HAProxy ignores `proto` of servers that are added at run time
            edge.assert_no_reload(before, 3)
        one.stop(None).wait()
        assert [say(plain) for _ in range(8)] == ["two"] * 8
        assert [say(secure) for _ in range(8)] == ["two"] * 8
        with pytest.raises(grpc.RpcError) as caught:
            plain.unary_unary("/other.Service/Method")(b"", timeout=within(20))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
