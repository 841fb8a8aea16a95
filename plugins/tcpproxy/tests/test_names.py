"""Addresses of backends that have host names: looked up again, kept, and forgotten."""

import asyncio
import socket

import pytest
from proxying import on_a_loop

from discovery.testing import eventually
from discovery_tcpproxy.names import Names


class Resolver:
    """What names mean now; one that means nothing cannot be looked up, one of `slow` only once that is empty."""

    def __init__(self) -> None:
        self.means: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.hurry = asyncio.Event()
        self.slow: set[str] = set()

    async def lookup(self, host: str) -> list[tuple[int, str]]:
        self.asked.append(host)
        if host in self.slow:
            await self.hurry.wait()
        if host not in self.means:
            raise OSError("unknown")
        return [(socket.AF_INET, address) for address in self.means[host]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver()
    monkeypatch.setattr("discovery.probes.names.lookup", resolver.lookup)
    monkeypatch.setattr("discovery_tcpproxy.names._PATIENCE", 0.1)
    monkeypatch.setattr("discovery_tcpproxy.names.EVERY", 0.0)
    monkeypatch.setattr("discovery_tcpproxy.names.AFTER_FAILURE", 0.0)
    return resolver


@on_a_loop
async def test_a_name_is_followed_where_it_leads_and_kept_while_it_cannot_be_looked_up(resolver: Resolver) -> None:
    changes: list[int] = []
    names = Names(lambda: changes.append(1))
    resolver.means = {"a": ["10.0.0.1", "10.0.0.2"]}

    async def looked_up_again() -> None:
        before = len(resolver.asked)
        names.refresh()
        await eventually(lambda: len(resolver.asked) > before and not names._lookups)

    await names.want(["a", "b"])
    assert (dict(names.addresses), changes) == ({"a": "10.0.0.1"}, [])
    resolver.means = {"a": ["10.0.0.2", "10.0.0.1"]}  # in turn, as many name servers answer
    await looked_up_again()
    assert (names.addresses["a"], changes) == ("10.0.0.1", [])
    resolver.means = {}
    await looked_up_again()
    assert (names.addresses["a"], changes) == ("10.0.0.1", [])
    resolver.means = {"a": ["10.0.0.3"], "b": ["fd00::1"]}
    await looked_up_again()
    assert (dict(names.addresses), changes) == ({"a": "10.0.0.3", "b": "fd00::1"}, [1, 1])
    await names.want(["b"])
    assert dict(names.addresses) == {"b": "fd00::1"}
    await names.close()


@on_a_loop
async def test_a_name_server_that_is_slow_holds_nobody_up(resolver: Resolver) -> None:
    changed = asyncio.Event()
    names = Names(changed.set)
    resolver.means = {"slow": ["10.0.0.1"], "quick": ["10.0.0.2"]}
    resolver.slow = {"slow"}
    await names.want(["slow", "quick"])
    assert dict(names.addresses) == {"quick": "10.0.0.2"}
    await names.want(["slow", "quick"])
    assert resolver.asked.count("slow") == 1
    resolver.hurry.set()
    await changed.wait()
    assert names.addresses["slow"] == "10.0.0.1"
    await names.close()
