"""Edits of the file of an external HAProxy by another than discovery: reported, and kept before they are replaced."""

import stat
from pathlib import Path
from typing import Any

import pytest
from haproxy_driver import ConsumerDriver, Drive

from discovery import ApplyError, Backend
from discovery.testing import free_port

Origins = tuple[Backend, ...]
ADDED = "    # a person's\n    timeout queue 7s\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the configuration file, which does not exist."""
    return tmp_path / "haproxy.cfg"


@pytest.fixture
def config(path: Path) -> dict[str, Any]:
    return {
        "services": {"web": {"bind": f"127.0.0.1:{free_port()}"}},
        "external": {"path": path, "command": ["true"], "validate": "none"},
    }


def kept(path: Path) -> list[Path]:
    """Return the files that are kept beside the configuration file."""
    return sorted(path.parent.glob("haproxy.cfg.edited-*"))


def warnings(driver: ConsumerDriver) -> list[str]:
    return [entry["event"] for entry in driver.log.entries if entry["log_level"] == "warning"]


def edit(path: Path) -> str:
    """Add lines to the end of the file, and return the file's text."""
    path.write_text(path.read_text() + ADDED)
    return path.read_text()


async def test_an_edit_is_reported_and_kept_before_it_is_replaced(
    drive: Drive, config: dict[str, Any], path: Path, origins: Origins
) -> None:
    async with drive(**config) as driver:
        await driver.apply(origins[0])
        assert (await driver.consumer.health()).detail == ""
        path.chmod(0o640)
        text = edit(path)
        health = await driver.consumer.health()
        assert health.ok
        assert f"{path} is not as discovery wrote the file" in health.detail
        assert path.read_text() == text
        await driver.apply(origins[1])
        assert (await driver.consumer.health()).detail == ""
        (copy,) = kept(path)
        assert copy.name in health.detail
        assert copy.read_text() == text
        assert stat.S_IMODE(copy.stat().st_mode) == 0o640
        assert "a person's" not in path.read_text()
        told = warnings(driver)
        assert [line for line in told if ": +" in line] == [f"haproxy.cfg: +{line}" for line in ADDED.splitlines()]
        assert not any(": -" in line for line in told)
        assert f"the edited file is kept as {copy}" in told[-1]


async def test_an_edit_while_no_daemon_runs_is_told_from_a_change_of_the_registry(
    drive: Drive, config: dict[str, Any], path: Path, origins: Origins
) -> None:
    async with drive(**config) as driver:
        await driver.apply(origins[0])
    async with drive(**config) as driver:
        await driver.apply(origins[1])
        assert warnings(driver) == []
        assert kept(path) == []
    text = edit(path)
    async with drive(**config) as driver:
        await driver.apply(origins[2])
        told = warnings(driver)
    assert [line for line in told if ": +" in line] == [f"haproxy.cfg: +{line}" for line in ADDED.splitlines()]
    assert not any(": -" in line for line in told)
    assert [copy.read_text() for copy in kept(path)] == [text]


async def test_an_edit_is_noticed_without_the_state_directory(
    drive: Drive, config: dict[str, Any], path: Path, origins: Origins
) -> None:
    async with drive(**config) as driver:
        await driver.apply(origins[0])
        (driver.state_dir / "written.cfg").unlink()
        text = edit(path)
        await driver.apply(origins[0])
        told = warnings(driver)
        assert [line for line in told if ": -" in line] == [f"haproxy.cfg: -{line}" for line in ADDED.splitlines()]
    assert [copy.read_text() for copy in kept(path)] == [text]


async def test_an_edit_is_reported_once_though_the_reload_fails(
    drive: Drive, config: dict[str, Any], path: Path, origins: Origins, tmp_path: Path
) -> None:
    reload = tmp_path / "reload"
    reload.write_text("#!/bin/sh\nexit 0\n")
    reload.chmod(0o755)
    config["external"]["command"] = [str(reload)]
    async with drive(**config) as driver:
        await driver.apply(origins[0])
        text = edit(path)
        reload.write_text("#!/bin/sh\nexit 1\n")
        for _ in range(2):
            with pytest.raises(ApplyError, match="exit 1"):
                await driver.apply(origins[1])
            await driver.consumer.health()
            assert path.read_text() == text
        assert len(kept(path)) == 1
        assert sum("was edited" in line for line in warnings(driver)) == 2  # the edit, and where it is kept


async def test_another_file_in_the_place_of_discoverys_is_kept_too(
    drive: Drive, config: dict[str, Any], path: Path, origins: Origins
) -> None:
    config["external"]["adopt"] = True
    texts = ["global\n    maxconn 1\n", "global\n    maxconn 2\n"]
    async with drive(**config) as driver:
        for text, origin in zip(texts, origins, strict=False):
            path.write_text(text)
            await driver.apply(origin)
    assert path.with_name("haproxy.cfg.before-discovery").read_text() == texts[0]
    assert [copy.read_text() for copy in kept(path)] == texts[1:]


async def test_bytes_that_are_no_text_are_kept_too(
    drive: Drive, config: dict[str, Any], path: Path, origins: Origins
) -> None:
    async with drive(**config) as driver:
        await driver.apply(origins[0])
        content = path.read_bytes() + b"# caf\xe9\n"
        path.write_bytes(content)
        await driver.consumer.health()
        await driver.apply(origins[1])
    assert [copy.read_bytes() for copy in kept(path)] == [content]


async def test_the_map_of_routes_is_kept_too(
    drive: Drive, config: dict[str, Any], path: Path, origins: Origins
) -> None:
    bind = config["services"]["web"]["bind"]
    shared = {"web": {"bind": bind, "hosts": "a.example"}, "other": {"bind": bind, "hosts": "b.example"}}
    routes = path.with_name("haproxy.routes.map")
    routes.write_text("a person's\n")
    config["external"]["adopt"] = True
    async with drive(**{**config, "services": shared}) as driver:
        await driver.apply(origins[0])
        text = routes.read_text() + "# edited\n"
        routes.write_text(text)
        assert await driver.consumer.reconfigure(driver.configured(services={"web": shared["web"]}))
        await driver.apply(origins[1])
    assert path.with_name("haproxy.routes.map.before-discovery").read_text() == "a person's\n"
    assert [copy.read_text() for copy in path.parent.glob("haproxy.routes.map.edited-*")] == [text]


async def test_another_file_in_the_place_of_the_map_is_kept_too(
    drive: Drive, config: dict[str, Any], path: Path, origins: Origins
) -> None:
    bind = config["services"]["web"]["bind"]
    hosts = [{"web": {"bind": bind, "hosts": name}, "other": {"bind": bind, "hosts": "z"}} for name in ("a", "b", "c")]
    routes = path.with_name("haproxy.routes.map")
    config["external"]["adopt"] = True
    async with drive(**config) as driver:
        for number, services in enumerate(hosts):
            routes.write_text(f"a person's {number}\n")
            assert await driver.consumer.reconfigure(driver.configured(services=services))
            await driver.apply(origins[0])
    assert path.with_name("haproxy.routes.map.before-discovery").read_text() == "a person's 0\n"
    edited = path.parent.glob("haproxy.routes.map.edited-*")
    assert sorted(copy.read_text() for copy in edited) == ["a person's 1\n", "a person's 2\n"]


async def test_of_many_edits_the_newest_are_kept(
    drive: Drive, config: dict[str, Any], path: Path, origins: Origins
) -> None:
    other = path.with_name("haproxy.cfg.edited-by-me")
    other.touch()
    async with drive(**config) as driver:
        texts = []
        for number in range(14):
            await driver.apply(origins[number % 2])
            path.write_text(f"{path.read_text()}# edit {number}\n")
            texts.append(path.read_text())
        await driver.apply()
        copies = [copy.read_text() for copy in sorted(kept(path), key=lambda copy: copy.stat().st_ctime_ns)]
        assert copies == ["", *texts[-10:]]
        assert driver.has_logged("of the edited files of")
