"""Host names looked up on a bounded number of threads: a name whose lookup hangs delays no other."""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from checking import candidate, checking, quick
from web import serving

from discovery.probes import HttpProbe, TcpProbe
from discovery.system.lookups import Lookups, RememberedLookups
from discovery.testing import eventually, within

THREADS = 8


class NameServer:
    """Answers at once, except for names that begin with `hangs`: these wait until `answer` is set."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []
        self.most_at_a_time = 0
        self.most_of_one_name = 0
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()

    def __call__(self, host: str, *_: Any, **__: Any) -> Any:
        with self._lock:
            self.asked.append(host)
            self._under_way[host] += 1
            self.most_at_a_time = max(self.most_at_a_time, self._under_way.total())
            self.most_of_one_name = max(self.most_of_one_name, *self._under_way.values())
        try:
            if host.startswith("hangs"):
                self.answer.wait(within(60))
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
        finally:
            with self._lock:
                self._under_way[host] -= 1


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    yield server
    server.answer.set()


async def test_a_new_name_is_answered_while_more_names_hang_than_there_are_threads(names: NameServer) -> None:
    lookups = Lookups(THREADS)
    hanging = [asyncio.create_task(lookups(f"hangs-{number}.invalid")) for number in range(10 * THREADS)]
    await asyncio.sleep(0)
    async with asyncio.timeout(within(20)):
        assert await lookups("lives.invalid") == [(socket.AF_INET, "127.0.0.1")]
    assert not any(each.done() for each in hanging)
    assert names.most_at_a_time <= THREADS
    assert names.most_of_one_name == 1
    names.answer.set()
    results = await asyncio.gather(*hanging, return_exceptions=True)
    assert {type(each) for each in results} == {socket.gaierror}
    assert names.most_at_a_time <= THREADS


async def test_names_that_are_asked_for_again_and_again_do_not_push_a_new_name_back(names: NameServer) -> None:
    """Checks that time out cancel their lookups and ask again: that makes their names no newer."""
    lookups = Lookups(4)

    async def ask_again_and_again(number: int) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(lookups(f"hangs-{number}.invalid"), 0.1 + number / 100)

    async with asyncio.timeout(within(30)), asyncio.TaskGroup() as tasks:
        impatient = [tasks.create_task(ask_again_and_again(number)) for number in range(12)]
        await eventually(lambda: names.asked)
        assert await lookups("lives.invalid") == [(socket.AF_INET, "127.0.0.1")]
        for each in impatient:
            each.cancel()


async def test_names_that_have_hung_leave_threads_to_the_others(names: NameServer) -> None:
    lookups = Lookups(THREADS)
    hosts = [f"hangs-{number}.invalid" for number in range(THREADS)]

    async def each_of_them() -> None:
        await asyncio.gather(*(lookups(host) for host in hosts), return_exceptions=True)

    first = asyncio.create_task(each_of_them())
    async with asyncio.timeout(within(60)):
        await eventually(lambda: len(names.asked) == THREADS, timeout=40)
        await asyncio.sleep(1.5)  # a lookup counts as slow by its length: the last of them has to be slow, too
        names.answer.set()
        await first
        names.answer.clear()
        again = asyncio.create_task(each_of_them())
        for number in range(THREADS):
            assert await lookups(f"lives-{number}.invalid")
    assert not again.done()
    names.answer.set()
    await again


async def test_thousands_of_names_that_wait_cost_hardly_any_time(names: NameServer) -> None:
    lookups = Lookups(THREADS)
    waiting = [asyncio.create_task(lookups(f"hangs-{number}.invalid")) for number in range(5000)]
    await eventually(lambda: len(names.asked) >= THREADS // 2, timeout=20)
    begun = time.process_time()
    await asyncio.sleep(2.0)  # the bar is processor time in this period
    assert time.process_time() - begun < 0.4
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_lookups_that_everyone_has_cancelled_are_not_begun(names: NameServer) -> None:
    lookups = Lookups(threads=1)
    waiting = [asyncio.create_task(lookups(f"hangs-{number}.invalid")) for number in range(50)]
    await asyncio.sleep(0)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    names.answer.set()
    async with asyncio.timeout(within(60)):
        assert await lookups("lives.invalid")
    assert names.asked == ["hangs-0.invalid", "lives.invalid"]


async def test_a_check_by_name_is_not_delayed_by_checks_whose_names_hang(names: NameServer) -> None:
    """More of them than there are threads; the checks look names up by what the checker was given."""
    lookup = RememberedLookups(THREADS)
    hanging = [
        candidate(quick(probe, timeout=2.0), id=f"{number}-{name}", host=f"hangs-{number}.invalid")
        for number in range(2 * THREADS)
        for name, probe in (("tcp", TcpProbe()), ("http", HttpProbe()))
    ]
    async with serving() as server, checking(*hanging, lookup=lookup) as (checker, published):
        await eventually(lambda: len(names.asked) > THREADS // 2, timeout=60)
        probe = quick(TcpProbe(("lives.invalid", server.port)), timeout=within(5.0))
        checker.set([*hanging, candidate(probe, id="living")])
        await eventually(lambda: published and "living" in published.ids, timeout=60)
    assert names.most_at_a_time <= THREADS


@pytest.mark.parametrize("address", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "::ffff:0.0.0.0", "fe80::1%lo"])
async def test_an_answer_that_one_cannot_connect_to_is_a_failure(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(OSError, match="cannot be connected to"):
        await Lookups(1)("blocked.example.com")
    answer.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)))
    assert await Lookups(1)("blocked.example.com") == [(socket.AF_INET, "192.0.2.1")]
