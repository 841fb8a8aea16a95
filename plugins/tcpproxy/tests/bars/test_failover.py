"""Backends that die and come: a pause, not an error; and a registry that changes all the time is not noticed."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import Starter
from sampling import sampled

from discovery.testing import eventually, eventually_sync, free_port, within

from .load import KeepBusy, Origin, StartOrigin

pytestmark = pytest.mark.warm

CLIENTS = 64
RATE = 50.0
SLOWNESS = 8
"""Times of its seconds that a series of changes may take on a busy machine."""

# In a process of its own, so that the clients do not slow it down.
_CHANGER = """
import asyncio, sys, time
from discovery import Backend
from discovery.registry import open_registry

async def main(url, changes, rate, *ports):
    registry = open_registry(url)
    lease = await registry.open_lease("somebody", 600)
    begun = time.monotonic()
    for number in range(int(changes)):
        record = Backend("web", f"b{number % 2}", "127.0.0.1", int(ports[number % 2]), weight=1 + number % 7)
        await (lease.put(record) if number % 4 < 2 else lease.delete(record))
        await asyncio.sleep(max(0.0, begun + (number + 1) / float(rate) - time.monotonic()))
    print(time.monotonic() - begun)
    await lease.close()
    await registry.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """The service `web` of a registry that is a directory."""
    place = tmp_path / "registry" / "web"
    place.mkdir(parents=True)
    return place


@pytest.fixture
def proxy(start_daemon: Starter, registry: Path) -> Callable[[], int]:
    """Starts the daemon on that registry; returns the port for clients once it is ready."""

    def start() -> int:
        port = free_port()
        daemon = start_daemon(
            *("--registry", f"file://{registry.parent}", "--plugin", "tcpproxy"),
            *("--set", f"tcpproxy.listen.web=127.0.0.1:{port}"),
        )
        eventually_sync(daemon.is_ready, "the daemon to be ready", timeout=20)
        return port

    return start


def register(registry: Path, origin: Origin) -> None:
    """Write its record, whole at once."""
    draft = registry.parent / f".{origin.name}"
    draft.write_text(json.dumps({"host": "127.0.0.1", "port": origin.port}))
    draft.rename(registry / origin.name)


@pytest.mark.costly
async def test_a_killed_backend_fails_only_its_own_connections(
    proxy: Callable[[], int], registry: Path, origins: StartOrigin, clients: KeepBusy
) -> None:
    victim, survivor = origins("victim"), origins("survivor")
    register(registry, victim)
    register(registry, survivor)
    port = proxy()
    async with clients(port, CLIENTS) as load:
        await eventually(lambda: {each.by for each in load.done} == {"victim", "survivor"}, "both to be used")
        await eventually(lambda: len(load.done) > 500)
        killing = time.monotonic()
        await asyncio.to_thread(victim.kill)
        killed = time.monotonic()
        await eventually(lambda: len(load.since(killed)) > 2_000, "connections after the kill", timeout=60)
    failed = load.failed()
    print(f"{len(load.done)} connections, {len(failed)} of them failed with the backend that was killed")
    assert [each for each in failed if each.begun > killed or each.ended < killing] == []
    assert [each for each in failed if each.by == "survivor"] == []


@pytest.mark.parametrize("end", sampled(["withdrawn", "killed"]))
async def test_clients_of_an_empty_service_wait_for_the_next_backend(
    proxy: Callable[[], int],
    registry: Path,
    origins: StartOrigin,
    clients: KeepBusy,
    end: str,
) -> None:
    last, following = origins("last"), origins("following")
    register(registry, last)
    port = proxy()
    async with clients(port, CLIENTS) as load:
        await eventually(lambda: len(load.done) > 500)
        going = time.monotonic()
        if end == "killed":  # the registry does not know it yet
            await asyncio.to_thread(last.kill)
        else:
            (registry / "last").unlink()
        gone = time.monotonic()
        await load.rest()
        resting = time.monotonic()  # a client that is slow to run notices late that its connection was cut
        assert len(load.waiting) == CLIENTS
        await asyncio.sleep(3)  # the bar: an operator starts another backend after 3 s; no event to await
        waiting = dict(load.waiting)
        (registry / "last").unlink(missing_ok=True)
        await asyncio.to_thread(register, registry, following)
        registered = time.monotonic()
        await eventually(lambda: len(load.since(registered)) > 500, "connections to the next one", timeout=30)
    held = [each for each in load.done if each.begun < registered < each.ended]
    failed = load.failed()
    slowest = max(load.done, key=lambda each: each.ended - each.begun)
    print(f"{len(held)} held, the slowest {slowest.ended - slowest.begun:.2f} s; {len(failed)} failed")
    cut = [each for each in failed if each.begun < gone and going < each.ended < resting]
    assert end == "killed" or not cut
    assert [each for each in failed if each not in cut] == []
    assert set(waiting.values()) <= {each.begun for each in load.done if each.by == "following"}
    assert slowest in held


@pytest.mark.costly
@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.faults)])
async def test_fifty_changes_per_second_fail_no_client(
    proxy: Callable[[], int],
    registry: Path,
    origins: StartOrigin,
    clients: KeepBusy,
    seconds: int,
) -> None:
    backends = {name: origins(name) for name in ("stays", "comes", "goes")}
    register(registry, backends["stays"])
    port, changes = proxy(), round(seconds * RATE)
    async with clients(port, CLIENTS) as load:
        ports = [str(backends[name].port) for name in ("comes", "goes")]
        arguments = (f"file://{registry.parent}", str(changes), str(RATE), *ports)
        changer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CHANGER, *arguments, stdout=asyncio.subprocess.PIPE
        )
        took = float((await changer.communicate())[0])
    answered = {name: sum(each.by == name for each in load.done) for name in backends}
    print(f"{changes} changes in {took:.1f} s; answered: {answered}; {len(load.failed())} failed")
    assert took < within(SLOWNESS * seconds)
    assert all(answered.values())
    assert load.failed() == []
