"""`discovery.testing.running` runs plugins as the daemon does, and recorded histories end with the same effect."""

import asyncio
import json
from pathlib import Path

import pytest
from sound_consumers import Table
from sound_providers import Directory

from discovery import Health, Update
from discovery.testing import RecordedHistory, Running, backend, eventually, running


def ids(plugin: Running) -> list[str]:
    return [row["id"] for row in json.loads((plugin.run_dir / "backends.json").read_text())]


async def test_a_consumer_follows_the_registry_in_memory() -> None:
    async with running(Table, {"indent": 2}) as plugin:
        await plugin.applied()
        plugin.put(backend(id="a"), backend(id="b"))
        await plugin.applied()
        assert ids(plugin) == ["a", "b"]
        plugin.remove(backend(id="a"))
        await plugin.applied()
        assert ids(plugin) == ["b"]
        assert plugin.error is None
        assert plugin.phase == "waiting"
        assert (await plugin.inspect())["backends"] == 1
        assert {sample.name for sample in await plugin.samples()} == {"applies", "backends"}
        await eventually(lambda: plugin.health == Health(detail="1 backends"))


async def test_a_failure_is_told_and_tried_again() -> None:
    class Failing(Table):
        fails = True

        async def apply(self, update: Update) -> None:
            if Failing.fails:
                raise ValueError("not now")
            await super().apply(update)

    async with running(Failing) as plugin:
        plugin.put(backend(id="a"))
        await eventually(lambda: plugin.error == "ValueError: not now")
        with pytest.raises(AssertionError, match="not now"):
            await plugin.applied(timeout=0.1)
        Failing.fails = False
        plugin.request_apply()
        await plugin.applied()
        assert ids(plugin) == ["a"]


async def test_a_provider_registers_what_it_finds(tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    (found / "a").write_text("80")
    async with running(Directory, {"directory": found}) as plugin:
        await plugin.registers(backend(id="a", port=80))
        (found / "new").write_text("81")
        await plugin.registers(backend(id="a", port=80), backend(id="new", port=81))
        await eventually(lambda: plugin.health.ok)
    assert plugin.registered == set()


async def test_a_directory_keeps_what_a_run_has_left(tmp_path: Path) -> None:
    for id_ in ("a", "b"):
        async with running(Table, directory=tmp_path) as plugin:
            plugin.put(backend(id=id_))
            await plugin.applied()
            assert ids(plugin) == [id_]


@pytest.mark.parametrize("history", RecordedHistory.all("db"), ids=RecordedHistory.NAMES)
async def test_every_recorded_history_ends_with_the_same_effect(history: RecordedHistory) -> None:
    async with running(Table) as plugin:
        await asyncio.wait_for(history.play(plugin), 60)
        assert ids(plugin) == [each.id for each in history.end()]
        assert plugin.registered == set(history.end())
