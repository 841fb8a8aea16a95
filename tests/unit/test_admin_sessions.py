"""What a log-in opens ends with it: open streams, too. And what a hostile or old browser sends to the form."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import ClientSession, DummyCookieJar, TCPConnector
from structlog.testing import capture_logs

from discovery.admin.access import Access
from discovery.admin.port import AdminPort
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.admin.waiters import Waiters
from discovery.system.httpserver import MOST_CONNECTIONS
from discovery.testing import eventually, free_port, within

TOKEN = "t" * 32
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Served:
    """An admin endpoint, and a client of it without a memory of cookies."""

    def __init__(self, session: ClientSession, port: int, access: list[Access], waiters: Waiters) -> None:
        self.session = session
        self.waiters = waiters
        self.port = port
        self.access = access
        self.url = f"{'https' if access[0].tls else 'http'}://127.0.0.1:{port}"

    async def log_in(self) -> str:
        async with self.session.post(f"{self.url}/login", data={"token": TOKEN}, allow_redirects=False) as answer:
            assert answer.status == 303
            return answer.headers["Set-Cookie"]


@asynccontextmanager
async def serving(access: Access, trust: ssl.SSLContext | bool = True) -> AsyncIterator[Served]:
    held, port = [access], free_port()
    waiters = Waiters()
    admin = AdminPort(Sources(lambda: DaemonStatus("memory://"), access=lambda: held[0], waiters=waiters))
    await admin.start("127.0.0.1", port)
    try:
        async with ClientSession(connector=TCPConnector(ssl=trust), cookie_jar=DummyCookieJar()) as session:
            yield Served(session, port, held, waiters)
    finally:
        await admin.close()


@pytest.mark.parametrize(
    ("before", "how", "after"),
    [
        (Access(TOKEN), "cookie", None),
        (Access(TOKEN), "cookie", Access("u" * 32)),
        (Access(TOKEN), "bearer", Access("u" * 32)),
        (Access(), "nothing", Access(TOKEN)),
    ],
    ids=["log-out", "another token, cookie", "another token", "a first token"],
)
async def test_an_open_stream_ends_with_what_has_opened_it(before: Access, how: str, after: Access | None) -> None:
    async with serving(before) as served:
        headers = {"bearer": BEARER, "nothing": {}}.get(how) or {}
        if how == "cookie":
            headers = {"Cookie": (await served.log_in()).partition(";")[0]}
        async with served.session.get(f"{served.url}/stream", headers=headers) as stream:
            assert stream.status == 200
            assert b"hello" in await stream.content.readuntil(b"\n\n")
            if after is None:
                async with served.session.post(f"{served.url}/logout", headers=headers, allow_redirects=False) as out:
                    assert out.status == 303
            else:
                served.access[0] = after
            async with asyncio.timeout(within(10)):
                await stream.content.read()


@pytest.mark.parametrize("after", [None, Access("u" * 32)], ids=["log-out", "another token"])
async def test_an_open_poll_ends_with_the_session(after: Access | None) -> None:
    async with serving(Access(TOKEN)) as served:
        headers = {"Cookie": (await served.log_in()).partition(";")[0]}
        poll = asyncio.create_task(status_of(served, "/api/wait?service=web&timeout=25", headers))
        await eventually(lambda: served.waiters.count == 1, timeout=20)
        begun = time.monotonic()
        if after is None:
            async with served.session.post(f"{served.url}/logout", headers=headers, allow_redirects=False) as out:
                assert out.status == 303
        else:
            served.access[0] = after
        assert await poll == 401
        assert time.monotonic() - begun < within(15)


async def status_of(served: Served, path: str, headers: dict[str, str]) -> int:
    async with served.session.get(served.url + path, headers=headers) as answer:
        return answer.status


@pytest.mark.parametrize("after", [Access(TOKEN, "off"), Access()], ids=["the same token", "no token"])
async def test_an_open_stream_stays_while_its_client_may_ask(after: Access) -> None:
    async with serving(Access(TOKEN)) as served, served.session.get(f"{served.url}/stream", headers=BEARER) as stream:
        served.access[0] = after
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await stream.content.read()


async def test_a_browser_that_tells_its_origin_alone_logs_in() -> None:
    """Browsers send Sec-Fetch-Site to loopback and over TLS alone, and the origin null without a referrer."""
    async with serving(Access(TOKEN)) as served:
        for path, status in (("/", 401), ("/login", 200)):
            async with served.session.get(served.url + path, headers={"Accept": "text/html"}) as answer:
                assert (answer.status, answer.headers.getall("Referrer-Policy")) == (status, ["same-origin"])


@pytest.mark.parametrize("charset", ["", "; charset=nothing", "; charset=idna", "; charset=punycode"])
async def test_a_form_that_is_no_text_is_refused_without_a_word_in_the_log(charset: str) -> None:
    headers = {"Content-Type": FORM["Content-Type"] + charset}
    async with serving(Access(TOKEN)) as served:
        for body in (b"token=\xff\xfe%ff", b"\x00" * 1000, b"&=" * 2000):
            with capture_logs() as logs:
                async with served.session.post(f"{served.url}/login", data=body, headers=headers) as answer:
                    assert answer.status in (400, 401)
            assert {each["event"] for each in logs} <= {"wrong credentials at the admin endpoint"}


@pytest.mark.parametrize(
    "request_line", ["POST /login HTTP/1.1", "GET /healthz HTTP/1.1"], ids=["the form", "a body of nobody's"]
)
@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        ("Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", {"POST": 401, "GET": 200}),  # it is not unpacked
        ("Transfer-Encoding: chunked\r\n\r\nzz\r\n", {"POST": 400, "GET": 400}),
    ],
    ids=["gzip", "chunks"],
)
async def test_a_body_that_is_not_as_its_header_says_is_no_line_of_the_log(
    request_line: str, body: str, statuses: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Access(TOKEN)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(f"{request_line}\r\nHost: 127.0.0.1\r\nContent-Type: {FORM['Content-Type']}\r\n{body}".encode())
        async with asyncio.timeout(within(10)):
            assert f" {statuses[request_line.split(maxsplit=1)[0]]} ".encode() in await reader.readuntil(b"\r\n")
            await reader.read()
        writer.close()
    assert not caplog.records


async def test_forms_that_never_end_keep_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    head = "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {}\r\nContent-Length: 1000\r\n"
    end = "Expect: 100-continue\r\n\r\n"
    async with serving(Access(TOKEN)) as served:
        async with served.session.get(f"{served.url}/healthz") as answer:
            assert answer.status == 200
        open_ = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(MOST_CONNECTIONS)]
        try:
            for _, writer in open_:
                writer.write((head.format(FORM["Content-Type"]) + end).encode())
            for reader, _ in open_:  # the server has begun with the request
                assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(within(10)):
                for _ in range(3):
                    async with served.session.get(f"{served.url}/healthz") as answer:
                        assert answer.status == 200
        finally:
            for _, writer in open_:
                writer.close()
    assert not caplog.records


async def test_over_tls_the_cookie_is_of_this_host_and_of_tls_alone(tmp_path: Path) -> None:
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    trust = ssl.create_default_context()
    ca.configure_trust(trust)
    async with serving(Access(TOKEN, tls=server), trust) as served:
        cookie, *flags = (await served.log_in()).split("; ")
        name = cookie.partition("=")[0]
        assert name.startswith(f"__Host-discovery-{served.port}-")
        assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(flags)
        assert not any(flag.lower().startswith("domain") for flag in flags)
        for given, status in ((cookie, 200), (cookie.removeprefix("__Host-"), 401)):
            async with served.session.get(f"{served.url}/api/status", headers={"Cookie": given}) as answer:
                assert answer.status == status
        async with served.session.post(
            f"{served.url}/logout", headers={"Cookie": cookie}, allow_redirects=False
        ) as answer:
            assert "Secure" in answer.headers["Set-Cookie"]
            assert answer.headers["Set-Cookie"].startswith(f'{name}=""')
