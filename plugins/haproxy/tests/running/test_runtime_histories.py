"""Random histories of changes: after each change the live servers are the wanted servers, and those of a new start.

A seed is printed; the environment variable DISCOVERY_HISTORY_SEED repeats a history.
"""

import asyncio
import csv
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from haproxy_driver import ConsumerDriver, Drive, ways

from discovery import Backend, State
from discovery.testing import backend, eventually, free_port, within
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.runtime_api.read_back import parse_states

SHORT, LONG = 8, 500
"""Changes of a history: in short runs as many as take a second."""
Origins = tuple[Backend, ...]
Key = tuple[str, str]

OWN_TEMPLATE = """\
{% extends "builtin/haproxy.cfg.j2" %}
{% block service %}
backend {{ service.name }}
    balance {{ service.config.balance | raw }}
    hash-type consistent
    default-server inter 200ms fall 2 rise 2 check
{% for backend in service.backends %}
    server {{ backend.id }} {{ backend.address }} id {{ backend.numeric_id }} weight {{ backend.weight }}
{%- if backend.backup %} backup{% endif +%}
{% endfor %}
{% endblock %}
"""
SECTIONS: dict[str, dict[str, Any]] = {
    "web": {"backup": {"label": "tier", "is": "spare"}, "weight_factor": {"label": "capacity"}},
    "keyed": {"balance": "url_param k"},
    "canary": {"service": "web", "labels": {"track": "canary"}, "balance": "random"},
    "ordered": {"service": "keyed", "balance": "first"},
}
"""Sections with their options. Two of them may be absent."""


class Facts(NamedTuple):
    """The facts of a server that a client notices."""

    address: str
    port: int
    weight: int
    backup: bool


@dataclass
class History:
    """A configuration and a registry that change at random."""

    dice: random.Random
    ports: list[int]
    binds: dict[str, str]
    backends: dict[Key, Backend] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.sections = {name: self._options(name) for name in ("web", "keyed")}

    @property
    def expected(self) -> dict[Key, Facts]:
        """The servers that have to be live."""
        found = {}
        for section, options in self.sections.items():
            for (service, id_), each in self.backends.items():
                wanted = options.get("labels", {}).items() <= each.labels.items()
                if service == options.get("service", section) and wanted:
                    by_label = section == "web"
                    weight = round(each.weight * float(each.labels.get("capacity", 1))) if by_label else each.weight
                    spare = by_label and each.labels.get("tier") == "spare"
                    draining = each.state is State.DRAINING
                    found[section, id_] = Facts(each.host, each.port, 0 if draining else weight, spare)
        return found

    def step(self) -> list[str]:
        """Change something, mostly one backend. Return what was changed."""
        kinds = [self._change() for _ in range(self.dice.choice((1, 1, 1, 3)))]
        self.kinds.update(kinds)
        return kinds

    def _change(self) -> str:
        if self.dice.random() < 0.06:
            return self.dice.choice((self._change_option, self._change_algorithm, self._change_sections))()
        key = self.dice.choice(("web", "keyed")), self.dice.choice("abcdef")
        old = self.backends.get(key)
        if old is None:
            self.backends[key] = backend(*key, port=self.dice.choice(self.ports), labels=self._labels())
            return "add"
        changes: tuple[Callable[[], dict[str, Any]] | None, ...] = (
            None,
            None,
            lambda: {"port": self.dice.choice(self.ports)},
            lambda: {"host": self.dice.choice(("127.0.0.1", "127.0.0.2"))},
            lambda: {"weight": self.dice.choice((1, 5, 100))},
            lambda: {"state": State.ACTIVE if old.state is State.DRAINING else State.DRAINING},
            lambda: {"labels": self._labels()},
        )
        change = self.dice.choice(changes)
        if change is None:
            del self.backends[key]
            return "remove"
        changed = change()
        self.backends[key] = replace(old, **changed)
        return next(iter(changed))

    def _labels(self) -> dict[str, str]:
        labels = {"track": ("canary", "stable"), "capacity": ("2", "1"), "tier": ("spare", "front", "front")}
        return {label: self.dice.choice(values) for label, values in labels.items()}

    def _change_option(self) -> str:
        self.sections["web"]["maxconn"] = self.dice.randrange(1000, 2000)
        return "option"

    def _change_algorithm(self) -> str:
        self.sections["web"]["balance"] = self.dice.choice(("roundrobin", "leastconn", "random", "static-rr"))
        return "algorithm"

    def _change_sections(self) -> str:
        name = self.dice.choice(("canary", "ordered"))
        if self.sections.pop(name, None) is None:
            self.sections[name] = self._options(name)
            return "section added"
        return "section removed"

    def _options(self, name: str) -> dict[str, Any]:
        return {"bind": self.binds[name], "check": {"interval": "200ms"}, **SECTIONS[name]}


async def facts(control: ControlSocket, prefix: str = "") -> tuple[dict[Key, Facts], dict[Key, str]]:
    """Return the facts and the ids of the servers. A removed server that still has connections is left out."""
    states = parse_states(await control.server_states())
    statistics = csv.DictReader((await control.send(f"{prefix}show stat")).removeprefix("# ").splitlines())
    backups = {(row["pxname"], row["svname"]): row["bck"] == "1" for row in statistics}
    there = {key: row for key, row in states.items() if not row.removed}
    found = {key: Facts(str(row.address), row.port, row.weight, backups[key]) for key, row in there.items()}
    return found, {key: row.id for key, row in there.items()}


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
    control = ControlSocket(directory / "stats.sock", master=False)
    with (directory / "output").open("w") as output:
        process = await asyncio.create_subprocess_exec(haproxy, "-db", "-f", config, stdout=output, stderr=output)
    try:
        try:
            await control.live_generation(within(10))
        except ControlError as error:
            raise AssertionError((directory / "output").read_text()) from error
        yield control
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def reload_by_another_program(driver: ConsumerDriver) -> None:
    """Reload HAProxy, and wait for its new worker."""
    before = await driver.processes()
    await driver.control.send_once("reload", within(10))

    async def is_reloaded() -> bool:
        now = await driver.processes()
        return now.reloads > before.reloads and bool(now.workers) and now.workers != before.workers

    await eventually(is_reloaded, "another worker")


@pytest.mark.parametrize("own_template", [False, True], ids=["built-in", "own"])
@pytest.mark.parametrize("steps", [SHORT, pytest.param(LONG, marks=[pytest.mark.exhaustive, pytest.mark.timeout(900)])])
async def test_a_random_history_of_changes(
    drive: Drive, haproxy: Path, origins: Origins, tmp_path: Path, steps: int, own_template: bool
) -> None:
    seed = int(os.environ.get("DISCOVERY_HISTORY_SEED") or random.randrange(1 << 32))
    print("seed", seed)
    dice = random.Random(seed)
    history = History(
        dice,
        [each.port for each in origins] + [free_port()],
        {name: f"127.0.0.1:{free_port()}" for name in SECTIONS},
    )
    other_binds = {each: f"127.0.0.1:{free_port()}" for each in history.binds.values()}
    template = tmp_path / "mine.cfg.j2"
    template.write_text(OWN_TEMPLATE)
    config: dict[str, Any] = {"template": template} if own_template else {}
    async with drive(services=history.sections, **config) as driver:
        (driver.run_dir / "new").mkdir()
        await driver.apply()
        for step in range(steps):
            before = repr(history.sections)
            kinds = history.step()
            if repr(history.sections) != before:
                assert await driver.consumer.reconfigure(driver.configured(services=history.sections, **config))
            if dice.random() < 0.02:
                await reload_by_another_program(driver)
                kinds.append("foreign reload")
            await driver.apply(*history.backends.values())
            live, ids = await facts(driver.control, "@1 ")
            assert live == history.expected, (seed, step, kinds)
            async with new_start(driver, haproxy, driver.run_dir / "new", other_binds) as control:
                started, new_ids = await facts(control)
            assert started == history.expected, (seed, step, kinds)
            assert ids == new_ids, (seed, step, kinds)  # the ids decide where a hash sends a request
            assert (await driver.consumer.health()).ok, (seed, step, kinds)
        print(ways(driver), dict(history.kinds))
