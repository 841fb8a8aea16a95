"""Asks a daemon of the fleet for its state, at the address of its record.

The record may be anybody's. So an address is asked only within the networks of the settings, a host name is looked up
once, and the address that was checked is the one that is connected to. No redirect is followed, no proxy and no cookie
is used, and the answer is bounded in bytes and time.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from discovery.addresses import is_loopback
from discovery.admin.credentials import answer_is_proven, nonce_of, prove
from discovery.fleet.announcement import Announcement
from discovery.fleet.answer import MOST_BYTES, AnswerError, answer_of
from discovery.fleet.reach import first_admitted, unreachable
from discovery.probes.tcp import reason
from discovery.system.lookups import Lookup
from discovery.system.terminal import printable

if TYPE_CHECKING:
    import aiohttp  # imported on use: few daemons are asked about the fleet
    from multidict import CIMultiDictProxy

TARGET = "/api/daemon"
"""The path at which a daemon tells of itself."""
REFUSED_SECONDS = 60.0
"""Seconds for which a daemon that has refused our token is not asked again."""
_MOST_REFUSED = 1000
"""Daemons of which a refusal is remembered: a bound on memory."""
_RECEIVE_BYTES = 8192
"""Bytes that the kernel keeps of an answer, about: the core does nothing else while what has come is parsed, and who
answers may send thousands of interim responses, none of which counts as a part of the body."""
_REFUSED = "it refuses the token of this daemon, or is asked by an address that it does not know: see admin_token_file"
_LONGEST_REASON = 200
"""Characters of a reason: an error may quote what the other side has sent."""


class Answered(NamedTuple):
    """What a daemon tells of itself, or the reason why it is not known."""

    told: dict[str, Any] | None
    reason: str | None = None


class Reply(NamedTuple):
    """A reply of HTTP: the status, the headers and the body."""

    status: int
    headers: "CIMultiDictProxy[str]"
    body: bytes


class Asking:
    """Asks daemons in the name of this one. For one event loop."""

    def __init__(
        self,
        machine: str,
        networks: Collection[str],
        lookup: Lookup,
        seconds: float,
        *,
        token: Callable[[], str | None] = lambda: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare. `machine` is the name of this machine, and `seconds` what each daemon has to answer.

        `token` returns the token that all daemons of the fleet have; None if they have none. `tls` is for daemons that
        are asked by https: None asks none of these.
        """
        self._machine = machine
        self._networks = networks
        self._lookup = lookup
        self._seconds = seconds
        self._token = token
        self._tls = tls
        self._refused: dict[str, tuple[float, str]] = {}  # by address: until when it is not asked again, and the token

    async def ask(self, announcement: Announcement, ids: Collection[str]) -> dict[str, Answered]:
        """Ask at the address of a daemon, and return the answer by each of `ids`. Raises nothing but a cancellation."""
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._fetch(announcement)
        except TimeoutError:
            why = f"it has not answered within {self._seconds:g} s"
        except AnswerError as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - the other side decides what goes wrong
            why = printable(reason(error))[:_LONGEST_REASON]
        else:
            return {id_: _answered(body, id_) for id_ in ids}
        return dict.fromkeys(ids, Answered(None, why))

    async def _fetch(self, announcement: Announcement) -> bytes:
        if (why := unreachable(announcement, self._machine, [announcement.host])) is not None:
            raise AnswerError(why)
        token, over_tls = self._token(), announcement.scheme == "https"
        if over_tls and self._tls is None:
            raise AnswerError("it is asked by https, and this daemon trusts no authorities: see fleet_ca")
        if not over_tls and token is None and self._tls is not None:
            raise AnswerError("it is asked without TLS and without a token, so that nothing would prove its answer")
        address = await self._address(announcement)
        if token is not None:
            self._raise_if_refused(announcement, token)
        reply = await self._get(announcement, address)
        # Over TLS its certificate has proven who answers.
        if token is not None and (reply.status == 401 or not over_tls):
            reply = await self._proven(announcement, address, reply, token)
        elif reply.status == 401:
            certificate = ", or admin_client_ca there" if over_tls else ""
            raise AnswerError(f"it asks for a token, and this daemon has none: see admin_token_file{certificate}")
        if reply.status == 404:
            raise AnswerError("what answers is no daemon, or one of an earlier version: status 404")
        if reply.status != 200:
            raise AnswerError(f"it answers with status {reply.status}")
        return reply.body

    async def _proven(self, announcement: Announcement, address: str, reply: Reply, token: str) -> Reply:
        """Answer the challenge in a reply, and return the next reply, which proves that the daemon has the token.

        Raises AnswerError if that is not proven.
        """
        nonce = nonce_of(", ".join(reply.headers.getall("WWW-Authenticate", ())))
        if reply.status != 401 or nonce is None:
            raise AnswerError("it does not ask for the token of the fleet, so its answer is not believed")
        proof = prove(token, nonce, "GET", TARGET, announcement.address)
        reply = await self._get(announcement, address, {"Authorization": proof.header})
        if reply.status in (401, 429):
            # Each attempt is answered late, and is a line of the log there.
            until = asyncio.get_running_loop().time() + REFUSED_SECONDS
            self._refused = {announcement.address: (until, token), **dict(islice(self._refused.items(), _MOST_REFUSED))}
            raise AnswerError(_REFUSED)
        told = reply.headers.get("Authentication-Info", "")
        if not answer_is_proven(token, proof, reply.status, reply.body, told):
            raise AnswerError("it does not know the token of the fleet, so its answer is not believed")
        return reply

    def _raise_if_refused(self, announcement: Announcement, token: str) -> None:
        until, refused = self._refused.get(announcement.address, (0.0, ""))
        if refused == token and asyncio.get_running_loop().time() < until:
            raise AnswerError(_REFUSED)

    async def _address(self, announcement: Announcement) -> str:
        """Return the address to connect to. Raises AnswerError if that is in none of the networks."""
        try:
            found = [address for _, address in await self._lookup(announcement.host)]
        except OSError as error:
            raise AnswerError(f"its host {announcement.host} cannot be looked up: {reason(error)}") from None
        if (why := unreachable(announcement, self._machine, found)) is not None:
            raise AnswerError(why)
        if announcement.machine != self._machine:
            found = [each for each in found if not is_loopback(each)]
        address = first_admitted(found, self._networks)
        if address is None:
            where = ", ".join(self._networks) or "none"
            raise AnswerError(
                f"{', '.join(found[:4])} is in none of the networks that are asked ({where}): see fleet_networks"
            )
        return address

    async def _get(self, announcement: Announcement, address: str, more: Mapping[str, str] | None = None) -> Reply:
        """Ask the announced daemon at this address. Raises AnswerError if the answer is too long."""
        import aiohttp
        from yarl import URL

        literal = f"[{address}]" if ":" in address else address
        url = URL.build(scheme=announcement.scheme, host=literal, port=announcement.port, path=TARGET)
        headers = {"Host": announcement.address, "Accept": "application/json", "Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=1, use_dns_cache=False, socket_factory=_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # `ask` bounds the time, that of the lookup included
                auto_decompress=False,
                trust_env=False,
            ) as session,
            session.get(
                url,
                headers={**headers, **(more or {})},
                allow_redirects=False,
                ssl=self._tls or False,
                server_hostname=announcement.host if announcement.scheme == "https" else None,
            ) as response,
        ):
            return Reply(response.status, response.headers, await _body(response))


def _socket(address: "aiohttp.AddrInfoType") -> socket.socket:
    """Return the socket of a connection: it takes in little at a time."""
    family, type_, protocol, *_ = address
    made = socket.socket(family, type_, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    return made


def _answered(body: bytes, id_: str) -> Answered:
    try:
        return Answered(answer_of(body, id_))
    except AnswerError as error:
        return Answered(None, str(error))


async def _body(response: "aiohttp.ClientResponse") -> bytes:
    """Return the body. Raises AnswerError if it is too long, as soon as that is known."""
    body = b""
    while chunk := await response.content.read(MOST_BYTES + 1 - len(body)):
        body += chunk
        if len(body) > MOST_BYTES:
            raise AnswerError(f"its answer has more than {MOST_BYTES} bytes")
    return body
