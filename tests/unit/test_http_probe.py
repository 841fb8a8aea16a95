"""The probe by HTTP, against real servers that behave well and badly."""

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from checking import F, P
from hypothesis import given
from hypothesis import strategies as st
from web import OK, ask, serving

from discovery.checks import Outcome, Verdict
from discovery.probes import HttpProbe
from discovery.testing import eventually


async def asked(probe: HttpProbe, answer: Any = OK) -> Outcome:
    async with serving(answer) as server:
        return await ask(probe, server.port)


async def test_http_passes_and_closes_its_connection() -> None:
    async with serving() as server:
        assert await ask(HttpProbe("/a/../b?c=%20d"), server.port) == Outcome(detail="status 200")
        await eventually(lambda: server.open == 0)
    (request,) = server.requests
    assert request.startswith(b"GET /a/../b?c=%20d HTTP/1.1\r\n")
    assert b"Connection: close\r\n" in request
    assert b"Accept-Encoding: identity\r\n" in request
    assert f"Host: 127.0.0.1:{server.port}\r\n".encode() in request


async def test_a_path_that_looks_like_another_host_is_a_path() -> None:
    async with serving() as server:
        await ask(HttpProbe("//evil.example.org:80/x"), server.port)
    assert server.requests[0].startswith(b"GET //evil.example.org:80/x HTTP/1.1\r\n")


async def test_the_method_and_the_host_header() -> None:
    async with serving(b"HTTP/1.1 204 No Content\r\n\r\n") as server:
        probe = HttpProbe(method="HEAD", host="www.example.org", status=((204, 204),))
        assert (await ask(probe, server.port)).verdict is P
    assert server.requests[0].startswith(b"HEAD / HTTP/1.1\r\n")
    assert server.requests[0].count(b"Host:") == 1
    assert b"Host: www.example.org\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("answered", "expected", "verdict"),
    [
        (200, ((200, 399),), P), (399, ((200, 399),), P), (400, ((200, 399),), F), (503, ((200, 399),), F),
        (404, ((200, 200), (404, 404)), P), (201, ((200, 200), (404, 404)), F),
    ],
)  # fmt: skip
async def test_the_status_decides(answered: int, expected: tuple[tuple[int, int], ...], verdict: Verdict) -> None:
    outcome = await asked(HttpProbe(status=expected), f"HTTP/1.1 {answered} X\r\nContent-Length: 0\r\n\r\n".encode())
    assert outcome.verdict is verdict
    assert str(answered) in outcome.detail


async def test_a_redirect_is_not_followed() -> None:
    async with serving() as target:
        redirect = f"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:{target.port}/\r\nContent-Length: 0\r\n\r\n".encode()
        assert (await asked(HttpProbe(), redirect)).verdict is P
        assert (await asked(HttpProbe(status=((200, 200),)), redirect)).verdict is F
    assert target.connections == 0


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as proxy, serving() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await ask(HttpProbe(), server.port)).verdict is P
    assert (proxy.connections, server.connections) == (0, 1)


async def test_the_body_decides() -> None:
    assert (await asked(HttpProbe(body="It w.rks!$"))).verdict is P
    outcome = await asked(HttpProbe("/x", body="^works"))
    assert outcome == Outcome(F, "GET /x: the body does not match")
    latin = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n\xffh\xe9ad!"
    assert (await asked(HttpProbe(body=r"h.ad!"), latin)).verdict is P


async def test_a_body_is_searched_in_its_first_64_kib_and_no_more_is_read() -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 60_000 + b"early" + b"a" * 10_000 + b"late")
        while True:
            writer.write(b"a" * 65536)
            await writer.drain()
            sent += 65536

    assert (await asked(HttpProbe(body="early"), endless)).verdict is P
    assert (await asked(HttpProbe(body="late"), endless)).verdict is F
    assert sent < 50_000_000


async def test_no_body_makes_a_regex_take_for_ever() -> None:
    hostile = b"HTTP/1.1 200 OK\r\nContent-Length: 60001\r\n\r\n" + b"a" * 60_000 + b"!"
    assert (await asked(HttpProbe(body=r"(a+)+$"), hostile)).verdict is F
    assert (await asked(HttpProbe(body=r"a*a*a*a*a*b"), hostile)).verdict is F


async def test_a_compressed_body_is_not_unpacked() -> None:
    bomb = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"
    assert (await asked(HttpProbe(), bomb)).verdict is P


async def never(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def drip(writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"a" * 100_000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.005)


async def reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("behaviour", [never, drip])
async def test_a_server_that_hangs_or_drips_is_left_when_the_time_is_over(behaviour: Any) -> None:
    async with serving(behaviour) as server:
        with pytest.raises(TimeoutError):
            await ask(HttpProbe(), server.port, timeout=0.3)
        await eventually(lambda: server.connections == 1 and (server.open == 0 or behaviour is never))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (reset, "connection reset by peer"),
        (hang_up, "Server disconnected"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n", ""),
    ],
)
async def test_what_is_no_answer_fails_with_a_reason(behaviour: Any, reason: str) -> None:
    outcome = await asked(HttpProbe(), behaviour)
    assert outcome.verdict is F
    assert outcome.detail == reason or (not reason and outcome.detail)


async def test_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("web.example.org").configure_cert(context)
    async with serving(tls=context) as server:
        named = await ask(HttpProbe(tls=True, ca=file, host="web.example.org"), server.port)
        assert named == Outcome(detail="status 200")
        assert (await ask(HttpProbe(tls=True, ca=file, host="web.example.org:8443"), server.port)).verdict is P
        assert (await ask(HttpProbe(tls=True, verify=False), server.port)).verdict is P
        other = await ask(HttpProbe(tls=True, ca=file), server.port)
        assert other.verdict is F
        assert other.detail.startswith("TLS: ")
        assert "127.0.0.1" in other.detail
        unknown = await ask(HttpProbe(tls=True, host="web.example.org"), server.port)
        assert unknown.detail.startswith("TLS: ")
        assert (await ask(HttpProbe(), server.port)).verdict is F
    async with await asyncio.start_server(lambda _, writer: writer.write(OK), "127.0.0.1", 0) as plain:
        wrong = await ask(HttpProbe(tls=True, verify=False), plain.sockets[0].getsockname()[1])
        assert wrong.verdict is F
        assert wrong.detail.startswith("TLS: ")
    missing = await ask(HttpProbe(tls=True, ca=tmp_path / "none.pem"))
    assert missing.detail == "no such file or directory"


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "x"}, {"path": ""}, {"path": "/a b"}, {"path": "/\r\nX: y"}, {"path": "/é"}, {"path": "/#a"},
        {"method": "get it"}, {"method": ""}, {"host": "a b"}, {"host": "a\r\nX: y"}, {"host": ""},
        {"body": "("}, {"body": "(?=a)"}, {"body": r"(a)\1"},
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_at_once(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"^(must be|is not) "):
        HttpProbe(**wrong)  # type: ignore[arg-type]


@given(st.text(max_size=20))
def test_a_path_is_refused_or_stays_in_its_line(path: str) -> None:
    with suppress(ValueError):
        assert HttpProbe(path).path.split() == [path]
