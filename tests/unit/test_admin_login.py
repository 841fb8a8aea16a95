"""A person logs in at the admin endpoint by a form: the cookie, what it opens, and what ends it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, DummyCookieJar
from multidict import CIMultiDictProxy
from structlog.testing import capture_logs

from discovery.admin.access import Access
from discovery.admin.attempts import MOST_DELAYED
from discovery.admin.login import own_address
from discovery.admin.port import AdminPort
from discovery.admin.sessions import MOST_SESSIONS, SESSION_SECONDS, Sessions
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.testing import free_port

TOKEN = "t" * 32
HTML = {"Accept": "text/html"}
Answer = tuple[int, CIMultiDictProxy[str], str]


class Browser:
    """Asks one server, without following what it is told."""

    def __init__(self, session: ClientSession, url: str, access: list[Access]) -> None:
        self.url = url
        self.access = access
        self._session = session

    async def get(self, path: str, **headers: str) -> Answer:
        async with self._session.get(self.url + path, headers=headers, allow_redirects=False) as answer:
            return answer.status, answer.headers, await answer.text()

    async def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Answer:
        url = self.url + path
        async with self._session.post(url, headers=headers or {}, data=fields, allow_redirects=False) as answer:
            return answer.status, answer.headers, await answer.text()

    async def log_in(self, token: str = TOKEN, **fields: str) -> str:
        """Return the cookie, as a browser sends it back."""
        status, headers, _ = await self.post("/login", token=token, **fields)
        assert status == 303
        return headers["Set-Cookie"].partition(";")[0]


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    access, port = [Access(TOKEN)], free_port()
    admin = AdminPort(Sources(lambda: DaemonStatus("memory://"), access=lambda: access[0]))
    await admin.start("127.0.0.1", port)
    try:
        async with ClientSession(cookie_jar=DummyCookieJar()) as session:
            yield Browser(session, f"http://127.0.0.1:{port}", access)
    finally:
        await admin.close()


async def test_a_person_logs_in_goes_on_and_logs_out() -> None:
    async with browsing() as browser:
        status, headers, text = await browser.get('/?q="><b>', **HTML)
        assert status == 401
        assert 'action="/login"' in text
        assert '"><b>' not in text
        assert "form-action 'self'" in headers["Content-Security-Policy"]
        status, headers, text = await browser.post("/login", token=TOKEN, next="/?q=web")
        assert (status, headers["Location"], headers["Cache-Control"]) == (303, "/?q=web", "no-store")
        cookie, *flags = headers["Set-Cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(flags)
        assert not any(flag.startswith("Domain") for flag in flags)
        assert TOKEN not in str(headers) + text
        assert (await browser.get("/api/status", Cookie=cookie))[0] == 200
        assert (await browser.get("/api/status"))[0] == 401
        status, _, text = await browser.get("/logout", Cookie=cookie)
        assert status == 200
        assert '<form method="post" action="/logout">' in text
        assert (await browser.get("/api/status", Cookie=cookie))[0] == 200, "a link does not log out"
        status, headers, _ = await browser.post("/logout", {"Cookie": cookie})
        assert (status, headers["Location"]) == (303, "/login")
        assert "Your session has ended" in (await browser.get("/", Cookie=cookie, **HTML))[2]
        assert "Your session has ended" not in (await browser.get("/", **HTML))[2]
        assert (await browser.get("/api/status", Cookie=cookie))[0] == 401


async def test_who_has_logged_in_may_log_out_of_the_page_and_nobody_else() -> None:
    async with browsing() as browser:
        cookie = await browser.log_in()
        _, headers, text = await browser.get("/", Cookie=cookie, **HTML)
        assert 'action="/logout"' in text
        assert headers["Referrer-Policy"] == "same-origin", "a browser tells the origin of the form"
        assert 'action="/logout"' not in (await browser.get("/", Authorization=f"Bearer {TOKEN}", **HTML))[2]
        assert (await browser.get("/logout"))[1]["Location"] == "/login"
        browser.access[0] = Access()
        assert 'action="/logout"' not in (await browser.get("/", Cookie=cookie, **HTML))[2]


async def test_daemons_of_one_inner_port_have_cookies_of_their_own() -> None:
    """Published ports of containers, and proxies, stand before ports that may be the same."""
    async with browsing() as browser:
        cookies = {}
        for host in ("127.0.0.1:8001", "127.0.0.1:8002", "127.0.0.1"):
            _, headers, _ = await browser.post("/login", {"Host": host}, token=TOKEN)
            cookies[host] = headers["Set-Cookie"].partition(";")[0]
        assert len({each.partition("=")[0] for each in cookies.values()}) == 3
        every = "; ".join(cookies.values())
        for host, cookie in cookies.items():
            assert (await browser.get("/api/status", Host=host, Cookie=every))[0] == 200
            assert (await browser.get("/api/status", Host=host.upper(), Cookie=cookie))[0] == 200


async def test_a_session_is_a_new_one_and_ends_with_the_token() -> None:
    async with browsing() as browser:
        planted = (await browser.log_in()).partition("=")[0] + "=planted"
        assert (await browser.get("/api/status", Cookie=planted))[0] == 401
        status, headers, _ = await browser.post("/login", headers={"Cookie": planted}, token=TOKEN)
        assert status == 303
        assert "planted" not in headers["Set-Cookie"]
        cookie = await browser.log_in()
        browser.access[0] = Access("u" * 32)
        assert (await browser.get("/api/status", Cookie=cookie))[0] == 401


async def test_wrong_tokens_begin_nothing_and_lock_nobody_out() -> None:
    async with browsing() as browser:
        status, headers, text = await browser.post("/login", token="wrong", next="/?q=1")
        assert (status, headers.get("Set-Cookie")) == (401, None)
        assert "not the token" in text
        assert "/?q=1" in text
        assert (await browser.get("/login?token=x"))[0] == 400
        assert (await browser.post(f"/login?token={TOKEN}"))[0] == 400
        wrong = [browser.get("/api", Authorization="Bearer x") for _ in range(2 * MOST_DELAYED)]
        forms = [browser.post("/login", token="wrong") for _ in range(2 * MOST_DELAYED)]
        cookie = await browser.log_in()
        with capture_logs() as logs:
            statuses = {status for status, _, _ in await asyncio.gather(*wrong, *forms)}
        assert statuses == {401, 429}, "few wait, and the others take no place of theirs"
        assert len(logs) <= 1
        assert (await browser.post("/login", token=TOKEN))[0] == 303
        for given in ({"Cookie": cookie}, {"Authorization": f"Bearer {TOKEN}"}):
            assert (await browser.get("/api/status", **given))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_a_page_of_another_origin_logs_nobody_in_or_out(headers: dict[str, str]) -> None:
    async with browsing() as browser:
        cookie = await browser.log_in()
        assert (await browser.post("/logout", headers={**headers, "Cookie": cookie}))[0] == 403
        assert (await browser.get("/api/status", Cookie=cookie))[0] == 200
        assert (await browser.post("/login", headers=headers, token=TOKEN))[0] == 403
        own = {"Sec-Fetch-Site": "same-origin", "Origin": "null"}
        assert (await browser.post("/login", headers=own, token=TOKEN))[0] == 303
        assert (await browser.post("/login", headers={"Origin": browser.url}, token=TOKEN))[0] == 303


async def test_only_the_form_is_posted_and_only_where_there_is_a_token() -> None:
    async with browsing() as browser:
        assert (await browser.post("/logout"))[0] == 303
        assert (await browser.post("/api"))[0] == 405
        assert (await browser.post("/login", headers={"Content-Type": "text/plain"}))[0] == 415
        browser.access[0] = Access()
        assert (await browser.post("/login", token=TOKEN))[0] == 405
        assert (await browser.post("/logout"))[0] == 405
        assert (await browser.get("/login"))[0] == 404
        assert (await browser.get("/api/status"))[0] == 200


@pytest.mark.parametrize(
    "address",
    [
        "",
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "evil",
        "/a\r\nX: y",
        "/\t/evil",
        "/logout",
        "/ä",
    ],
)
def test_a_log_in_leads_nowhere_else(address: str) -> None:
    assert own_address(address) == "/"
    assert own_address("/?q=web&state=down") == "/?q=web&state=down"


def test_sessions_are_few_and_end() -> None:
    sessions = Sessions()
    first, second = sessions.begin(TOKEN, 0.0), sessions.begin(TOKEN, 0.0)
    assert sessions.is_valid(first, TOKEN, SESSION_SECONDS - 1)
    assert not sessions.is_valid(first, TOKEN, SESSION_SECONDS)
    assert not sessions.is_valid(first, "other", 1.0)
    assert not sessions.is_valid("", TOKEN, 1.0)
    for _ in range(MOST_SESSIONS - 1):
        sessions.begin(TOKEN, 1.0)
    assert not sessions.is_valid(first, TOKEN, 1.0)
    assert sessions.is_valid(second, TOKEN, 1.0)
