"""Stands before every route of the admin endpoint, also those that do not exist: methods, origins and credentials.

A route is told to who is authenticated. Exceptions are named here, so that a new route is guarded without further ado.
"""

import asyncio
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Literal, NamedTuple

import structlog
from aiohttp import web

from discovery.admin import credentials
from discovery.admin.access import Access, is_loopback
from discovery.admin.attempts import Attempts
from discovery.admin.login import (
    LOGIN,
    LOGOUT,
    fields_of,
    form,
    has_cookie,
    is_logged_in,
    is_own_form,
    logged_in,
    logged_out,
    question,
    wants_form,
)
from discovery.admin.sessions import Sessions
from discovery.model import join_host_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Outcome = Literal["known", "unknown", "wrong"]

PUBLIC = frozenset({"/healthz", "/readyz", LOGIN, LOGOUT})
"""Paths that are told to everybody; of health a word, and `is_known` says whether with details."""
METHODS = frozenset({"GET", "HEAD"})
_FORMS = frozenset({LOGIN, LOGOUT})
"""Paths to which a form is sent: a link, which another page may have a browser follow, neither logs in nor out."""
_IPV6 = re.compile(r"\[([0-9a-f:.]+)\](:[0-9]+)")
_SECRETS = frozenset({"token", "access_token", "admin_token"})
"""Names in a query by which a token would be given: the addresses of pages end in histories and logs."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer that does not set them itself."""


class _Judged(NamedTuple):
    """What became of the credentials of a request; `still` is True while they count."""

    still: Callable[[], bool]


_KNOWN = web.RequestKey("known", bool)
_JUDGED = web.RequestKey("judged", _Judged)
_SESSION = web.RequestKey("session", bool)
_PROOF = web.RequestKey("proof", credentials.Proof)

_log = structlog.get_logger("discovery.admin.server")


def is_known(request: web.Request) -> bool:
    """Return True if the client may be told everything."""
    return _KNOWN in request and request[_KNOWN]


def is_still_known(request: web.Request) -> bool:
    """Return True if the client may still be told everything: an answer without an end asks again and again."""
    return _JUDGED in request and request[_JUDGED].still()


def is_by_session(request: web.Request) -> bool:
    """Return True if the client is known by the cookie of a session, which it can end."""
    return _SESSION in request and request[_SESSION]


class Guard:
    """The middleware of one server. For one event loop."""

    def __init__(self, access: Callable[[], Access], names: Callable[[], Collection[str]]) -> None:
        """Prepare. `access`, and `names`, under which clients may address the server, are called at every request."""
        self._access = access
        self._names = names
        self._challenges = credentials.Challenges()
        self._attempts = Attempts()
        self._sessions = Sessions()

    def guard(self, application: web.Application) -> None:
        """Stand before every route of the application, and add those by which a person logs in and out."""
        application.add_routes(
            [
                web.get(LOGIN, self._form),
                web.post(LOGIN, self._log_in),
                web.get(LOGOUT, self._ask_to_log_out),
                web.post(LOGOUT, self._log_out),
            ]
        )
        application.middlewares.append(self._middleware)
        application.on_response_prepare.append(self._prepare)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _SECRETS.isdisjoint(name.lower() for name in request.query):
            return _error(400, "a token never stands in an address: send the header Authorization: Bearer TOKEN")
        if is_from_elsewhere(request):
            return _error(403, "a page of another origin may not ask")
        access = self._access()
        allowed = METHODS | {"POST"} if request.path in _FORMS and access.token is not None else METHODS
        if request.method not in allowed:
            return _error(405, "only GET and HEAD are served", {"Allow": ", ".join(sorted(allowed))})
        if request.path == "/metrics" and access.metrics == "off":
            return _error(404, "metrics are off: see admin_metrics in the configuration")
        outcome = await self._judge(request, access)
        request[_KNOWN] = outcome == "known"
        request[_SESSION] = outcome == "known" and self._has_session(request, access)
        request[_JUDGED] = _Judged(lambda: self._is_still_known(request, access))
        if outcome == "wrong":
            return await self._refuse(request, access)
        if outcome == "unknown" and not _is_public(request.path, access):
            if access.token is None or not wants_form(request):
                return self._ask(access)
            return form(401, request.path_qs, "Your session has ended." if has_cookie(request) else "")
        return await handler(request)

    async def _form(self, _: web.Request) -> web.Response:
        if self._access().token is None:
            return _error(404, "there is no token to log in with: see admin_token_file in the configuration")
        return form(200, "/")

    async def _log_in(self, request: web.Request) -> web.Response:
        """Take the token, in the body alone."""
        if request.content_type != "application/x-www-form-urlencoded":
            return _error(415, "the form is application/x-www-form-urlencoded")
        if not is_own_form(request):
            return _error(403, "a page of another origin may not log in")
        try:
            fields = fields_of(await request.read())
        except ValueError:
            return _error(400, "this is not the form")
        given, address = fields.get("token", "").strip(), fields.get("next", "/")
        token = self._access().token
        if token is not None and credentials.same(given, token):
            _log.info("logged in at the admin endpoint", client=_client(request))
            return logged_in(request, self._sessions, token, address)
        if not await self._is_delayed(request):
            return form(429, address, "Too many attempts with wrong tokens at the same time: try again.")
        return form(401, address, "This is not the token of this daemon.")

    async def _ask_to_log_out(self, request: web.Request) -> web.Response:
        if self._access().token is not None and is_by_session(request):
            return question()
        return web.Response(status=303, headers={"Location": LOGIN})

    async def _log_out(self, request: web.Request) -> web.Response:
        if not is_own_form(request):
            return _error(403, "a page of another origin may not log out")
        return logged_out(request, self._sessions)

    async def _judge(self, request: web.Request, access: Access) -> Outcome:
        """Whether the client is known; "wrong" if it gave credentials that are not right."""
        if access.is_open or (access.client_ca and _has_certificate(request)):
            return "known"
        given = request.headers.getall("Authorization", [])
        if not given:
            return "known" if self._has_session(request, access) else "unknown"
        if access.token is None or len(given) > 1:
            return "wrong"
        if (proof := credentials.proof_of(given[0])) is not None:
            return self._judge_proof(request, access.token, proof)
        scheme, _, token = given[0].partition(" ")
        return "known" if scheme.lower() == "bearer" and credentials.same(token.strip(), access.token) else "wrong"

    def _has_session(self, request: web.Request, access: Access) -> bool:
        return access.token is not None and is_logged_in(request, self._sessions, access.token)

    def _is_still_known(self, request: web.Request, before: Access) -> bool:
        """Whether a client that was known while `before` told who may ask is known now: what it gave counts still."""
        access = self._access()
        if access.is_open:
            return True
        if access.client_ca and _has_certificate(request):
            return access.tls is before.tls  # else the authorities may be others
        if access.token is None:
            return False
        if "Authorization" in request.headers:  # a proof is of the moment, and the token is not
            return access.token == before.token
        return is_logged_in(request, self._sessions, access.token)

    def _judge_proof(self, request: web.Request, token: str, proof: credentials.Proof) -> Outcome:
        audience = request.headers.get("Host", "").lower()
        if not credentials.is_proven(token, proof, request.method, request.raw_path, audience):
            return "wrong"
        if _canonical(audience) not in self._audiences(request) or not self._challenges.is_fresh(
            proof.nonce, time.monotonic()
        ):
            # The client has the token, so this is no guess: a third party sent the client here, or relays its proof.
            return "unknown"
        request[_PROOF] = proof
        return "known"

    def _audiences(self, request: web.Request) -> set[str]:
        """Return the HOST:PORT names of this server. A proof for another name was made for another server."""
        sockname = request.transport.get_extra_info("sockname") if request.transport is not None else None
        if not sockname:
            return set()
        host, port = sockname[:2]
        hosts = {str(host).partition("%")[0], *self._names(), *(("localhost",) if is_loopback(str(host)) else ())}
        every = {join_host_port(each.lower(), port) for each in hosts} | {each.lower() for each in self._names()}
        return {_canonical(each) for each in every}

    async def _refuse(self, request: web.Request, access: Access) -> web.Response:
        """Answer who gave wrong credentials, late."""
        if not await self._is_delayed(request):
            error = "too many attempts with wrong credentials at the same time: try again later"
            return _error(429, error, {"Retry-After": "1"})
        error = "the token is not the one of admin_token_file, or the proof of it is late or for another address"
        return self._ask(access, error)

    async def _is_delayed(self, request: web.Request) -> bool:
        """Wait before a wrong attempt is answered; return False at once if too many wait already."""
        client = _client(request)
        if times := self._attempts.line(client, time.monotonic()):
            _log.warning("wrong credentials at the admin endpoint", client=client, times=times)
        seconds = self._attempts.begin()
        if seconds is None:
            return False
        try:
            await asyncio.sleep(seconds)
        finally:
            self._attempts.end()
        return True

    def _ask(self, access: Access, error: str = "") -> web.Response:
        """Ask for credentials."""
        if access.token is None:
            return _error(401, "say who you are: with a certificate of the authorities of admin_client_ca")
        certificate = ", or have a certificate of the authorities of admin_client_ca" if access.client_ca else ""
        way_in = "send the header Authorization: Bearer TOKEN, with the token of admin_token_file"
        answer = _error(401, error or f"say who you are: {way_in}{certificate}")
        answer.headers.add("WWW-Authenticate", credentials.challenge(self._challenges.issue(time.monotonic())))
        answer.headers.add("WWW-Authenticate", 'Bearer realm="discovery"')
        return answer

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        proof, token = request.get(_PROOF), self._access().token
        if proof is not None and token is not None and isinstance(response, web.Response):
            body = response.body if isinstance(response.body, bytes | bytearray) else b""
            header = credentials.answer_header(token, proof, response.status, bytes(body))
            response.headers["Authentication-Info"] = header


def is_from_elsewhere(request: web.Request) -> bool:
    """Return True if a page of another origin has a browser ask.

    Other ports of a host are other origins, and the same site. A link that a person follows is no reading by a page.
    """
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site in ("none", "same-origin"):
        return False
    followed = (
        request.headers.get("Sec-Fetch-Mode") == "navigate" and request.headers.get("Sec-Fetch-Dest") == "document"
    )
    return not (followed and request.method in METHODS)


def _has_certificate(request: web.Request) -> bool:
    """Return True if the client has a certificate, which TLS has verified."""
    return request.transport is not None and bool(request.transport.get_extra_info("peercert"))


def _canonical(audience: str) -> str:
    """Return a HOST:PORT with an IPv6 address in its shortest form: clients write it in any."""
    found = _IPV6.fullmatch(audience)
    try:
        return audience if found is None else f"[{ipaddress.IPv6Address(found[1])}]{found[2]}"
    except ValueError:
        return audience


def _is_public(path: str, access: Access) -> bool:
    return path in PUBLIC or (path == "/metrics" and access.metrics == "open")


def _client(request: web.Request) -> str:
    """The address of the client; of IPv6 the network, of which a client may have every address."""
    text = (request.remote or "").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return str(address) if address.version == 4 else str(ipaddress.ip_network((text, 64), strict=False))


def _error(status: int, error: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": error}, status=status, headers=headers)
