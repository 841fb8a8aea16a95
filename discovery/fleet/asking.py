"""Asks a daemon of the fleet how it is, where its record says that it is reached.

The record may be anybody's. So an address is asked only within the networks of the settings, a host name is looked up
once, and the address that was checked is the one that is connected to. No redirect is followed, no proxy and no cookie
is used, and the answer is bounded in bytes and time.
"""

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from discovery.fleet.announcement import Announcement
from discovery.fleet.answer import MOST_BYTES, AnswerError, answer_of
from discovery.fleet.reach import first_admitted, unreachable
from discovery.probes.tcp import reason
from discovery.system.lookups import Lookup
from discovery.system.terminal import printable

if TYPE_CHECKING:
    import aiohttp  # imported on use: few daemons are asked about the fleet

TARGET = "/api/daemon"
"""The path at which a daemon tells of itself."""
_LONGEST_REASON = 200
"""Characters of a reason: an error may quote what the other side has sent."""


class Answered(NamedTuple):
    """What a daemon tells of itself, or the reason why it is not known."""

    told: dict[str, Any] | None
    reason: str | None = None


class Asking(NamedTuple):
    """How daemons are asked: from which machine, in which networks, within how many seconds each."""

    machine: str
    networks: Collection[str]
    lookup: Lookup
    seconds: float

    async def ask(self, announcement: Announcement) -> Answered:
        """Ask a daemon how it is. Raises nothing but a cancellation."""
        try:
            async with asyncio.timeout(self.seconds):
                return Answered(answer_of(await self._fetch(announcement), announcement.id))
        except TimeoutError:
            return Answered(None, f"it has not answered within {self.seconds:g} s")
        except AnswerError as error:
            return Answered(None, str(error))
        except Exception as error:  # noqa: BLE001 - the other side decides what goes wrong
            return Answered(None, printable(reason(error))[:_LONGEST_REASON])

    async def _fetch(self, announcement: Announcement) -> bytes:
        if (why := unreachable(announcement, self.machine)) is not None:
            raise AnswerError(why)
        if announcement.scheme != "http":
            raise AnswerError("it is asked by https, for which no authorities are configured")
        address = await self._address(announcement)
        status, body = await _get(announcement, address)
        if status == 404:
            raise AnswerError("what answers is no daemon, or one of an earlier version: status 404")
        if status != 200:
            raise AnswerError(f"it answers with status {status}")
        return body

    async def _address(self, announcement: Announcement) -> str:
        """Return the address to connect to. Raises AnswerError if that is in none of the networks."""
        try:
            found = [address for _, address in await self.lookup(announcement.host)]
        except OSError as error:
            raise AnswerError(f"its host {announcement.host} cannot be looked up: {reason(error)}") from None
        address = first_admitted(found, self.networks)
        if address is None:
            where = ", ".join(self.networks) or "none"
            raise AnswerError(
                f"{', '.join(found[:4])} is in none of the networks that are asked ({where}): see fleet_networks"
            )
        return address


async def _get(announcement: Announcement, address: str) -> tuple[int, bytes]:
    """Ask the announced daemon at this address; return the status and the body."""
    import aiohttp
    from yarl import URL

    literal = f"[{address}]" if ":" in address else address
    url = URL.build(scheme=announcement.scheme, host=literal, port=announcement.port, path=TARGET)
    headers = {"Host": announcement.address, "Accept": "application/json", "Accept-Encoding": "identity"}
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=1, use_dns_cache=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # `ask` bounds the time, that of the lookup included
            auto_decompress=False,
            trust_env=False,
        ) as session,
        session.get(url, headers=headers, allow_redirects=False) as response,
    ):
        return response.status, await _body(response)


async def _body(response: "aiohttp.ClientResponse") -> bytes:
    """Return the body. Raises AnswerError if it is too long, as soon as that is known."""
    body = b""
    while chunk := await response.content.read(MOST_BYTES + 1 - len(body)):
        body += chunk
        if len(body) > MOST_BYTES:
            raise AnswerError(f"its answer has more than {MOST_BYTES} bytes")
    return body
