"""HTTP clients with the ambassador between them and the server: curl, wrk, and WebSockets."""

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession, WSMsgType, web
from ambassadors import TIMEOUT, StartCommand, connect_unix

from discovery import join_host_port
from discovery.testing import free_port, require_program, within

from .programs import Ambassador, Spawn, run

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@pytest.fixture
def nginx(spawn: Spawn, short_path: Path) -> Callable[..., int]:
    """Starts an nginx that serves `small` and `large`; the port that it listens on."""
    program = require_program("nginx", wheel=False)
    pages = short_path / "pages"
    pages.mkdir()
    (pages / "small").write_text("It works!\n")
    (pages / "large").write_bytes(os.urandom(1 << 20) * 4)
    short_path.chmod(0o755)

    def start(host: str = "127.0.0.1") -> int:
        port = free_port()
        at = join_host_port(host, port)
        config = short_path / "nginx.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {short_path}/nginx.pid; error_log stderr;\n"
            f"events {{ worker_connections 512; }}\nhttp {{ access_log off; keepalive_requests 1000000;\n"
            + "".join(f"{kind}_temp_path {short_path}/{kind};\n" for kind in _TEMPORARY)
            + f"server {{ listen {at}; root {pages}; }} }}\n"
        )
        spawn(program, "-p", short_path, "-e", "stderr", "-c", config)
        return port

    return start


def test_curl_keeps_its_connection(nginx: Callable[..., int], ambassador: Ambassador, short_path: Path) -> None:
    url = f"http://127.0.0.1:{ambassador(nginx())}"
    large = (short_path / "pages" / "large").read_bytes()
    curl = require_program("curl", wheel=False)
    pages = ("small", "large", "small", "large")
    saved = [
        word for number, page in enumerate(pages) for word in ("-o", short_path / f"got-{number}", f"{url}/{page}")
    ]
    told = run(curl, "-sS", "--noproxy", "*", "--fail", "-w", "%{num_connects}\\n", *saved)
    assert told.split() == [b"1", b"0", b"0", b"0"]
    assert [(short_path / f"got-{number}").read_bytes() == large for number in range(4)] == [False, True, False, True]


@pytest.mark.costly
@pytest.mark.parametrize("close", [False, True], ids=["keep-alive", "close"])
def test_wrk_reports_no_error(nginx: Callable[..., int], ambassador: Ambassador, close: bool) -> None:
    url = f"http://127.0.0.1:{ambassador(nginx())}/small"
    headers = ("-H", "Connection: close") if close else ()
    said = run(
        require_program("wrk", wheel=False), "-t", "1", "-c", "16", "-d", str(round(within(1))), *headers, url
    ).decode()
    found = re.search(r"(\d+) requests in", said)
    assert found, said
    assert int(found[1]) > 16
    assert "Socket errors" not in said
    assert "Non-2xx" not in said


def test_ipv6_from_end_to_end(nginx: Callable[..., int], ambassador: Ambassador) -> None:
    port = ambassador(nginx("::1"), "--listen", "::1", host="::1")
    curl = require_program("curl", wheel=False)
    assert run(curl, "-sS", "--noproxy", "*", "--fail", "-g", f"http://[::1]:{port}/small") == b"It works!\n"


def test_a_unix_socket_with_curl(nginx: Callable[..., int], start_command: StartCommand, short_path: Path) -> None:
    path = short_path / "web.sock"
    run_ = start_command("forward", f"127.0.0.1:{nginx()}", "--listen", f"unix:{path}")
    connect_unix(path).close()
    curl = require_program("curl", wheel=False)
    fetch = (curl, "-sS", "--noproxy", "*", "--fail", "--unix-socket", path, "http://web.example/small")
    assert run(*fetch) == b"It works!\n"
    assert run_.stop() == 0
    assert not path.exists()


async def test_http_is_upgraded_to_a_websocket(ambassador: Ambassador) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket_ = web.WebSocketResponse(max_msg_size=0)
        await socket_.prepare(request)
        async for message in socket_:
            await (
                socket_.send_str(message.data) if message.type is WSMsgType.TEXT else socket_.send_bytes(message.data)
            )
        return socket_

    app = web.Application()
    app.add_routes([web.get("/", echo)])
    runner = web.AppRunner(app)
    await runner.setup()
    server = free_port()
    await web.TCPSite(runner, "127.0.0.1", server).start()
    try:
        port = await asyncio.to_thread(ambassador, server)
        async with (
            ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{port}/", max_msg_size=0) as end,
        ):
            for size in (0, 1, 125, 126, 65536, 3 << 20):
                data = os.urandom(size)
                await end.send_bytes(data)
                assert await end.receive_bytes(timeout=within(TIMEOUT)) == data
                await end.send_str("and a word")
                assert await end.receive_str(timeout=within(TIMEOUT)) == "and a word"
            await end.close()
            assert end.close_code == 1000
    finally:
        await runner.cleanup()
