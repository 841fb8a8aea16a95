"""Names of hosts, looked up on threads that nobody waits for.

The system's resolver may take half a minute, and cannot be interrupted: on asyncio's own few threads it would hold up
other names, and our end.
"""

import asyncio
import socket
import threading
from concurrent.futures import Future
from typing import Any

from discovery.addresses import family_of

Found = list[tuple[int, str]]

_lock = threading.Lock()
_under_way: dict[str, "Future[Found]"] = {}


async def lookup(host: str) -> Found:
    """The family and text of each of a host's addresses. Raises OSError.

    Whoever is cancelled leaves the lookup to its end; until then, who asks for the same name shares it.
    """
    if (family := family_of(host)) is not None:
        return [(socket.AF_INET if family == 4 and ":" not in host else socket.AF_INET6, host)]
    with _lock:
        if (answer := _under_way.get(host)) is None:
            answer = Future()
            answer.set_running_or_notify_cancel()  # from now on no one of those who share it can cancel it
            threading.Thread(target=_look_up, args=(host, answer), name="lookup", daemon=True).start()
            _under_way[host] = answer
    return await asyncio.wrap_future(answer)


class Resolver:
    """The same, as aiohttp wants it (its AbstractResolver)."""

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[dict[str, Any]]:
        """Raises OSError."""
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            {"hostname": host, "host": address, "port": port, "family": each, "proto": 0, "flags": flags}
            for each, address in await lookup(host)
            if family in (socket.AF_UNSPEC, each)
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _look_up(host: str, answer: "Future[Found]") -> None:
    found: Found | Exception
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found = [(family, str(address[0])) for family, _, _, _, address in infos]
    except Exception as error:  # noqa: BLE001 - a UnicodeError, say, of a name that is none
        found = error if isinstance(error, OSError) else OSError(f"{host!r} cannot be looked up: {error}")
    with _lock:
        del _under_way[host]
    if isinstance(found, Exception):
        answer.set_exception(found)
    else:
        answer.set_result(found)
