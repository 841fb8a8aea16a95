"""Random histories in which the registry, an operator and other programs change the servers of one HAProxy."""

import os
import random
import signal
from dataclasses import dataclass, field
from typing import Any

import pytest
from haproxy_driver import ConsumerDriver, Drive, live_servers, wait_until_healthy
from sampling import sampled

from discovery import Backend
from discovery.testing import backend, eventually, within
from discovery_haproxy.limits import Limits
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.runtime_api.read_back import LiveServer, parse_states

Origins = tuple[Backend, ...]


@dataclass
class Server:
    """A wanted server, and what an operator has set."""

    port: int
    weight: int = 1
    manual_weight: int | None = None
    state: str = "ready"


@dataclass
class World:
    """What the registry and an operator want, by server."""

    driver: ConsumerDriver
    dice: random.Random
    services: dict[str, dict[str, Any]]
    ports: list[int]
    servers: dict[str, Server] = field(default_factory=dict)

    async def registry(self) -> str:
        """Add, remove, move or weigh a server."""
        id_ = self.dice.choice("abcdef")
        server = self.servers.get(id_)
        kind = self.dice.choice(("remove", "move", "weight")) if server else "add"
        if server is None:
            self.servers[id_] = Server(self.dice.choice(self.ports))
        elif kind == "remove":
            del self.servers[id_]
        elif kind == "move":
            server.port = self.dice.choice(self.ports)
        else:
            before, server.weight = server.weight, self.dice.choice((0, 1, 2, 5))
            server.manual_weight = server.manual_weight if server.weight == before else None
        await self.driver.apply(
            *(backend(id=id_, port=each.port, weight=each.weight) for id_, each in self.servers.items())
        )
        return f"{kind} {id_}"

    async def operator(self) -> str:
        """Set a server's state or weight through the socket."""
        if not self.servers:
            return "nothing"
        id_ = self.dice.choice(sorted(self.servers))
        if self.dice.random() < 0.4:
            weight = self.dice.choice((50, 60, 70))  # never one of the registry's
            self.servers[id_].manual_weight = weight
            return await self.command(f"set server web/{id_} weight {weight}")
        self.servers[id_].state = self.dice.choice(("maint", "drain", "ready", "ready"))
        return await self.command(f"set server web/{id_} state {self.servers[id_].state}")

    async def stranger(self) -> str:
        """Move, delete or add a server through the socket, which is drift."""
        free = [id_ for id_, each in self.servers.items() if each.state == "ready" and each.manual_weight is None]
        kind = self.dice.choice(("add", "move", "delete"))
        if kind == "add" or not free:
            return await self.command(
                f"add server web/stranger 127.0.0.1:{self.ports[0]} id 9; enable server web/stranger"
            )
        path = f"web/{self.dice.choice(free)}"
        if kind == "move":
            return await self.command(f"set server {path} addr 127.0.0.1 port {self.dice.choice(self.ports)}")
        return await self.command(f"set server {path} state maint; del server {path}")

    async def reload(self) -> str:
        """Reload HAProxy as another program does."""
        before = (await self.driver.processes()).workers
        await self.driver.control.send_once("reload", within(10))

        async def is_reloaded() -> bool:
            workers = (await self.driver.processes()).workers
            return bool(workers) and workers != before

        await eventually(is_reloaded, "another worker")
        return "reload"

    async def option(self) -> str:
        """Change an option, which reloads HAProxy, alone or together with a server."""
        web = {**self.services["web"], "maxconn": self.dice.randrange(1000, 2000)}
        assert await self.driver.consumer.reconfigure(self.driver.configured(services={"web": web}))
        if self.dice.random() < 0.5:
            return f"option and {await self.registry()}"
        await self.driver.apply_again()
        return "option"

    async def crash(self) -> str:
        """Kill HAProxy, which the supervision starts again."""
        master = self.driver.master
        os.kill(master, signal.SIGKILL)

        async def is_restarted() -> bool:
            await self.apply_if_requested()  # the end of HAProxy may have come during a repair
            return self.driver.master != master

        await eventually(is_restarted, "another master")
        await wait_until_healthy(self.driver)
        return "crash"

    async def restart(self) -> str:
        """Let another daemon take over."""
        await self.driver.consumer.hand_over()
        self.driver.replace_consumer()
        await self.driver.consumer.setup()
        await self.driver.apply_again()
        return "restart"

    async def command(self, text: str) -> str:
        """Send commands to the worker at once."""
        await ControlSocket(self.driver.run_dir / "stats.sock", master=False).send_once(text, within(5))
        return text

    async def apply_if_requested(self) -> None:
        """Deploy if the consumer has asked for that, as the core does."""
        if self.driver.apply_requested.is_set():
            self.driver.apply_requested.clear()
            await self.driver.apply_again()

    async def is_true(self) -> bool:
        """Report whether the live servers and the listed changes are those of this world."""
        await self.apply_if_requested()
        live = {
            name: facts(row)
            for (_, name), row in (await live_servers(self.driver)).items()
            if name in self.servers or not row.removed
        }
        wanted = {
            id_: (each.port, each.weight if each.manual_weight is None else each.manual_weight, each.state)
            for id_, each in self.servers.items()
        }
        listed = (await self.driver.consumer.inspect())["operator_changes"]
        words = {"maint": "in maintenance", "drain": "draining", "ready": ""}
        changed = {
            f"web/{id_}": ", ".join(
                filter(None, (words[each.state], f"weight {each.manual_weight}" if each.manual_weight else ""))
            )
            for id_, each in self.servers.items()
            if each.manual_weight or each.state != "ready"
        }
        assert live == wanted
        assert listed == changed
        # What a reload by another program reads.
        saved = parse_states((self.driver.run_dir / "servers.state").read_text())
        assert {path: facts(saved["web", path.removeprefix("web/")]) for path in changed} == {
            path: wanted[path.removeprefix("web/")] for path in changed
        }
        return True


def facts(row: LiveServer) -> tuple[int, int, str]:
    """Return port, weight and state of a server."""
    return row.port, row.weight, "maint" if row.removed else "drain" if row.draining else "ready"


@pytest.mark.parametrize("steps", [10, pytest.param(100, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("haproxy", sampled(["on-path", "wheel"]), indirect=True)
async def test_a_random_history_of_operators_and_other_programs(
    drive: Drive, origins: Origins, bind: str, steps: int
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    limits = Limits(look=dice.choice((0.01, 0.3)), restarts=(0.0,))
    services = {"web": {"bind": bind, "check": {"interval": "200ms"}}}
    async with drive(services=services, verify_interval="100ms", limits=limits) as driver:
        world = World(driver, dice, services, [each.port for each in origins])
        for _ in range(3):
            await world.registry()
        for _ in range(steps):
            act = dice.choice(
                [world.registry] * 4 + [world.operator] * 3 + [world.stranger] * 2 + [world.reload, world.restart]
                + [world.option, world.crash]
            )  # fmt: skip
            print(await act(), world.servers)
            await eventually(world.is_true, "the servers to be as wanted")
        details = await driver.consumer.inspect()
    print(details)
