"""Random histories of a fragment: changes of the registry, edits and reloads by the operator, and new daemons.

After each change the live servers are the wanted servers, and those of a HAProxy that starts from the files.
"""

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from external_haproxy import ExternalProcess, run_external
from haproxy_driver import ConsumerDriver, Drive

from discovery import Backend, State
from discovery.testing import backend, eventually, free_port, within
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.runtime_api.read_back import parse_states

SHORT, LONG = 6, 100
"""Changes of a history."""
Origins = tuple[Backend, ...]
Facts = dict[tuple[str, str], tuple[str, int, int]]
OWN = """\
global
    stats socket {directory}/stats.sock mode 600 level admin
defaults http
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    default-server inter 300ms maxconn {limit}
frontend edge
    bind 127.0.0.1:{port}
    use_backend keyed if {{ path_beg /k }}
    default_backend web
defaults tcp
    mode tcp
    timeout connect 1s
"""


class History:
    """The operator's file, and the backends that are registered."""

    def __init__(self, directory: Path, dice: random.Random, ports: list[int]) -> None:
        self.directory = directory
        self.dice = dice
        self.ports = ports
        self.own, self.fragment = directory / "own.cfg", directory / "services.cfg"
        self.port = free_port()
        self.backends: dict[tuple[str, str], Backend] = {}
        self.edit()
        self.fragment.touch()

    @property
    def expected(self) -> Facts:
        """Address, port and weight of each server that has to be live."""
        return {
            key: (each.host, each.port, 0 if each.state is State.DRAINING else each.weight)
            for key, each in self.backends.items()
        }

    def edit(self) -> None:
        """Edit the operator's file: the `defaults` that the fragment's sections inherit from."""
        self.own.write_text(OWN.format(directory=self.directory, port=self.port, limit=self.dice.randrange(100, 1000)))

    def change(self) -> None:
        """Change a backend."""
        key = self.dice.choice(("web", "keyed", "unnamed")), self.dice.choice("abc")
        old = self.backends.get(key)
        if old is None:
            self.backends[key] = backend(*key, port=self.dice.choice(self.ports))
        elif self.dice.random() < 0.3:
            del self.backends[key]
        else:
            state = State.ACTIVE if old.state is State.DRAINING else State.DRAINING
            change = self.dice.choice(({"port": self.dice.choice(self.ports)}, {"weight": 5}, {"state": state}))
            self.backends[key] = replace(old, **change)


async def facts(control: ControlSocket) -> Facts:
    states = parse_states(await control.server_states())
    return {key: (str(row.address), row.port, row.weight) for key, row in states.items() if not row.removed}


@asynccontextmanager
async def new_start(history: History, haproxy: Path) -> AsyncIterator[ControlSocket]:
    """Start another HAProxy from the files, at another address, and yield its stats socket."""
    directory = history.directory / "new"
    directory.mkdir(exist_ok=True)
    own = directory / "own.cfg"
    text = history.own.read_text().replace(f"{history.directory}/stats.sock", f"{directory}/stats.sock")
    own.write_text(text.replace(f"127.0.0.1:{history.port}", f"127.0.0.1:{free_port()}"))
    process = await asyncio.create_subprocess_exec(
        *(haproxy, "-db", "-f", own, "-f", history.fragment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    control = ControlSocket(directory / "stats.sock", master=False)
    try:
        await control.send("show info", within(10))
        yield control
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
def history(run_dir: Path, origins: Origins) -> History:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    return History(run_dir, random.Random(seed), [each.port for each in origins])


@pytest.fixture
def edge(haproxy: Path, history: History) -> Iterator[ExternalProcess]:
    """Run HAProxy with the operator's file and the fragment."""
    history.fragment.write_text("backend web from http\nbackend keyed from http\n")
    with run_external(haproxy, history.directory, (history.own, history.fragment)) as external:
        history.fragment.write_text("")
        yield external


@pytest.mark.parametrize("steps", [SHORT, pytest.param(LONG, marks=[pytest.mark.exhaustive, pytest.mark.timeout(900)])])
async def test_a_random_history_of_a_fragment(
    drive: Drive, haproxy: Path, history: History, edge: ExternalProcess, steps: int
) -> None:
    control = ControlSocket(edge.stats_socket, master=False)
    external = {
        "fragment": history.fragment,
        "files": history.own,
        "stats_socket": edge.stats_socket,
        "command": ["kill", "-USR2", str(edge.process.pid)],
        "timeout": within(3),  # a third of it until a request that HAProxy has forgotten is repeated
    }
    async with AsyncExitStack() as stack:
        driver: ConsumerDriver = await stack.enter_async_context(drive(external=external))
        for step in range(steps):
            chance = history.dice.random()
            if chance < 0.1:
                history.edit()
            elif chance < 0.2:
                await edge.reload()
            elif chance < 0.3:
                await stack.aclose()
                driver = await stack.enter_async_context(drive(external=external))
            history.change()
            await driver.consumer.health()
            await driver.apply(*history.backends.values())

            async def is_as_wanted() -> bool:
                return await facts(control) == history.expected

            await eventually(is_as_wanted, f"the servers of step {step}")
            async with new_start(history, haproxy) as other:
                assert await facts(other) == history.expected, step
