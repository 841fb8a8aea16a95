"""Random histories of changes: after each change the live servers are the wanted servers, and those of a new start."""

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from haproxy_driver import ConsumerDriver, Drive, live_servers, ways

from discovery import Backend, State
from discovery.testing import backend, free_port
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.runtime_api.read_back import LiveServer, parse_states

STEPS = 60
"""Changes of a history: enough for each kind of change to follow each other kind, and at most a minute."""
Origins = tuple[Backend, ...]
Wanted = dict[tuple[str, str], Backend]
Facts = dict[tuple[str, str], tuple[str, int, int]]

OWN_TEMPLATE = """\
{% extends "builtin/haproxy.cfg.j2" %}
{% block service %}
backend {{ service.name }}
    balance leastconn
    default-server inter 200ms fall 2 rise 2 check
{% for backend in service.backends %}
    server {{ backend.id }} {{ backend.address }} weight {{ backend.weight }}
{% endfor %}
{% endblock %}
"""


def facts(servers: dict[tuple[str, str], LiveServer]) -> Facts:
    """Return what a server's line says. A removed server that still has connections is left out."""
    return {key: (str(row.address), row.port, row.weight) for key, row in servers.items() if not row.removed}


def change(wanted: Wanted, ports: list[int], dice: random.Random) -> str:
    """Change one backend of `wanted`, and return the kind of change."""
    service, id_ = dice.choice(("web", "keyed")), dice.choice("abcdef")
    old = wanted.get((service, id_))
    if old is None:
        wanted[service, id_] = backend(service=service, id=id_, port=dice.choice(ports))
        return "add"
    kind = dice.choice(("remove", "remove", "move", "weight", "drain"))
    if kind == "remove":
        del wanted[service, id_]
        return kind
    port, weight, state = old.port, old.weight, old.state
    if kind == "move":
        port = dice.choice(ports)
    elif kind == "weight":
        weight = dice.choice((1, 5, 100))
    else:
        state = State.ACTIVE if state is State.DRAINING else State.DRAINING
    wanted[service, id_] = backend(service=service, id=id_, port=port, weight=weight, state=state)
    return kind


@asynccontextmanager
async def new_start(
    driver: ConsumerDriver, haproxy: Path, directory: Path, binds: dict[str, str]
) -> AsyncIterator[ControlSocket]:
    """Start a HAProxy from the driver's file, at other addresses, and yield its stats socket."""
    text = (driver.run_dir / "haproxy.cfg").read_text().replace(str(driver.run_dir), str(directory))
    for old, new in binds.items():
        text = text.replace(old, new)
    config = directory / "new.cfg"
    config.write_text(text)
    process = await asyncio.create_subprocess_exec(
        haproxy, "-db", "-f", config, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    control = ControlSocket(directory / "stats.sock", master=False)
    try:
        await control.live_generation(10)
        yield control
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("own_template", [False, True])
async def test_a_random_history_of_changes(
    drive: Drive, haproxy: Path, origins: Origins, bind: str, tmp_path: Path, own_template: bool
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    other = f"127.0.0.1:{free_port()}"
    services: dict[str, dict[str, object]] = {
        "web": {"bind": bind, "check": {"interval": "200ms"}},
        "keyed": {"bind": other, "balance": "url_param k", "check": {"interval": "200ms"}},
    }
    template = tmp_path / "mine.cfg.j2"
    template.write_text(OWN_TEMPLATE)
    ports = [each.port for each in origins] + [free_port()]
    wanted: Wanted = {}
    config: dict[str, object] = {"services": services, **({"template": template} if own_template else {})}
    binds = {bind: f"127.0.0.1:{free_port()}", other: f"127.0.0.1:{free_port()}"}
    async with drive(**config) as driver:
        (driver.run_dir / "new").mkdir()
        await driver.apply()
        for step in range(STEPS):
            kinds = [change(wanted, ports, dice) for _ in range(dice.choice((1, 1, 1, 3)))]
            if dice.random() < 0.05:
                services["web"]["maxconn"] = 1000 + step
                assert await driver.consumer.reconfigure(driver.configured(**config))
                kinds.append("option")
            await driver.apply(*wanted.values())
            expected = {
                key: (each.host, each.port, 0 if each.state is State.DRAINING else each.weight)
                for key, each in wanted.items()
            }
            servers = await live_servers(driver)
            assert facts(servers) == expected, (seed, step, kinds)
            async with new_start(driver, haproxy, driver.run_dir / "new", binds) as control:
                started = parse_states(await control.server_states())
            assert facts(started) == expected, (seed, step, kinds)
            if not own_template:  # the ids decide where a hash sends a request
                assert {key: servers[key].id for key in started} == {key: row.id for key, row in started.items()}
        print(ways(driver))
