"""Host names looked up as the machine does, on a bounded number of threads of their own.

`getaddrinfo` knows the hosts file, search domains and whatever else the machine is configured for. It may take half a
minute and cannot be interrupted: on asyncio's own few threads it would block other work, and the end of the process.
"""

import asyncio
import ipaddress
import socket
import threading
from collections import Counter
from concurrent.futures import Future

from discovery.addresses import family_of

Found = list[tuple[int, str]]


class Lookups:
    """At most `threads` lookups at a time; others wait in a queue. For any number of event loops, from any thread.

    With `newest_first` the last that was asked for comes next, so that many that take long do not delay a single one.
    The threads are daemon threads, which end when nothing is queued: an interpreter that exits waits for none of them.
    """

    def __init__(self, threads: int, *, newest_first: bool = False) -> None:
        """Start nothing yet."""
        self._threads = threads
        self._newest_first = newest_first
        self._lock = threading.Lock()
        self._running = 0
        self._queue: dict[str, Future[Found]] = {}
        self._under_way: dict[str, Future[Found]] = {}
        self._waiting: Counter[str] = Counter()

    async def __call__(self, host: str) -> Found:
        """The family and text of each of a host's addresses, in the order of preference of RFC 6724. Raises OSError.

        Concurrent lookups of one name share one call. A lookup that everyone has cancelled is not begun.
        """
        if (family := family_of(host)) is not None:
            return [(socket.AF_INET if family == 4 and ":" not in host else socket.AF_INET6, host)]
        with self._lock:
            answer = self._under_way.get(host) or self._queue.get(host) or self._enqueue(host)
            self._waiting[host] += 1
        try:
            return await asyncio.wrap_future(answer)
        finally:
            with self._lock:
                self._waiting[host] -= 1
                if not self._waiting[host]:
                    del self._waiting[host]
                    if self._queue.get(host) is answer:
                        del self._queue[host]

    def _enqueue(self, host: str) -> "Future[Found]":
        answer: Future[Found] = Future()
        answer.set_running_or_notify_cancel()  # from now on none of those that share it can cancel it
        self._queue[host] = answer
        if self._running < self._threads:
            threading.Thread(target=self._work, name="lookup", daemon=True).start()
            self._running += 1
        return answer

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                host = next(reversed(self._queue) if self._newest_first else iter(self._queue))
                answer = self._under_way[host] = self._queue.pop(host)
            found = _look_up(host)
            with self._lock:
                del self._under_way[host]
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)


def _look_up(host: str) -> Found | OSError:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a UnicodeError, say, for what is not a name
        return OSError(f"{host!r} cannot be looked up: {error}")
    found = [(int(family), str(address[0])) for family, _, _, _, address in infos]
    usable = [(family, address) for family, address in found if _is_usable(address)]
    return usable or OSError(f"its only address is {found[0][1]}, which cannot be connected to")


def _is_usable(address: str) -> bool:
    """Whether a record of the registry may have this address as its host, too."""
    parsed = ipaddress.ip_address(address)
    return not (parsed.is_unspecified or parsed.is_multicast or getattr(parsed, "scope_id", None))
