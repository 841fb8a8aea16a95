"""Files of the user's own in a managed HAProxy: loaded, watched, checked, and kept in their last accepted form."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from external_haproxy import ExternalProcess
from haproxy_driver import Drive, wait_until_served, ways
from haproxy_web import Fetch

from discovery import ApplyError, Backend
from discovery.testing import backend, eventually, free_port
from discovery_haproxy.label_routes.requests import HOST
from discovery_haproxy.text.inclusion import inclusion, place_in_file

Origins = tuple[Backend, ...]
OWN = """\
# the user's
frontend own
    bind {bind}
    http-request return status 200 content-type text/plain string {word}
    use_backend web if {{ path /web }}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return the path of the user's own file, which does not exist."""
    return tmp_path / "own.cfg"


async def test_an_included_file_is_served_watched_and_contained(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, own: Path
) -> None:
    other = f"127.0.0.1:{free_port()}"
    own.write_text(OWN.format(bind=other, word="first"))

    async def body() -> str:
        return (await asyncio.to_thread(fetch, f"http://{other}/")).body

    async with drive(services={"web": {"bind": bind}}, include=own) as driver:
        await driver.apply(origins[0])
        await wait_until_served(fetch, bind, origins[0])
        assert await body() == "first"

        own.write_text(OWN.format(bind=other, word="second"))
        await asyncio.wait_for(driver.apply_requested.wait(), 10)
        await driver.apply_again()
        assert await body() == "second"

        own.write_text(OWN.format(bind=other, word="third") + "    nonsense here\n")
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        assert await body() == "second"
        [refused] = (await driver.consumer.inspect())["refused"]
        assert refused["part"] == "the global settings"
        assert f"({own}:6 nonsense here): unknown keyword 'nonsense'" in refused["reason"]

        own.write_text(OWN.format(bind=other, word="fourth"))
        await driver.apply(origins[1])
        assert (await driver.consumer.health()).ok
        assert await body() == "fourth"


async def test_a_record_with_the_name_of_an_included_section_stops_no_service(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, own: Path
) -> None:
    own.write_text("backend table\n    stick-table type ip size 1k\n")

    async with drive(bind=bind, label_routes="*", include=own) as driver:
        table = backend("table", "1", port=origins[0].port, labels={HOST: "table.example.com"})
        await driver.apply(table, backend("shop", "1", port=origins[1].port, labels={HOST: "127.0.0.1"}))
        await wait_until_served(fetch, bind, origins[1])
        problems = (await driver.consumer.health()).problems
        assert f"{own}:1 has a section of that name" in str(problems)


async def test_the_files_of_an_included_directory_are_those_that_haproxy_would_load(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path
) -> None:
    directory, other = tmp_path / "conf.d", f"127.0.0.1:{free_port()}"
    directory.mkdir()
    (directory / "own.cfg").write_text(OWN.format(bind=other, word="own").rstrip())  # without a newline at the end
    (directory / "zz.cfg").write_text("userlist users\n    user a insecure-password b\n")
    (directory / "notes.txt").write_text("nonsense\n")
    async with drive(services={"web": {"bind": bind}}, include=[directory]) as driver:
        await driver.apply(origins[0])
        assert (await asyncio.to_thread(fetch, f"http://{other}/")).body == "own"
        text = (driver.run_dir / "haproxy.cfg").read_text()
        assert text.index("# Included:") < text.index("frontend own") < text.index("userlist users")
        (directory / "own.cfg").write_text(OWN.format(bind=other, word="new"))

        async def is_requested() -> bool:
            await driver.consumer.health()
            return await driver.is_apply_requested()

        await eventually(is_requested, "a request for a deployment")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "of 'include', cannot be read: No such file or directory"),
        ("bind *:80\n", "line 1: 'bind' stands in no section"),
        ("global\n    maxconn 100\n    description mine\n", "line 3: 'description' conflicts with a line"),
    ],
)
async def test_a_file_that_cannot_be_included(
    drive: Drive, origins: Origins, bind: str, own: Path, text: str | None, reason: str
) -> None:
    if text is not None:
        own.write_text(text)
    async with drive(services={"web": {"bind": bind}}, include=own) as driver:
        with pytest.raises(ApplyError, match=f"{own}.*{reason}"):
            await driver.apply(origins[0])


def test_the_place_of_a_line_in_an_included_file() -> None:
    text = "global\n" + inclusion("/a.cfg", "one\ntwo") + inclusion("/b.cfg", "three\n")
    lines = text.splitlines()
    places = [place_in_file(lines, lines.index(line) + 1) for line in ("global", "one", "two", "three")]
    assert places == ["", "/a.cfg:1", "/a.cfg:2", "/b.cfg:1"]


ENCODED = b"    # caf\xe9\n"


async def test_an_included_file_may_have_another_encoding(drive: Drive, origins: Origins, bind: str, own: Path) -> None:
    own.write_bytes(OWN.format(bind=f"127.0.0.1:{free_port()}", word="own").encode() + ENCODED)
    options: dict[str, Any] = {"services": {"web": {"bind": bind}}, "include": own}
    async with drive(**options) as driver:
        await driver.apply(origins[0])
        await driver.apply(origins[1])
        assert ways(driver) == {"runtime": 1, "reload": 0}
        await driver.consumer.hand_over()
    async with drive(**options) as driver:
        await driver.apply(origins[1])
        assert driver.has_logged("took over the HAProxy")
        assert ways(driver) == {"runtime": 0, "reload": 0}
        assert (await driver.consumer.inspect())["refused"] == []


async def test_an_included_file_beside_an_external_haproxy_may_have_another_encoding(
    drive: Drive, external: ExternalProcess, origins: Origins, bind: str, own: Path
) -> None:
    own.write_bytes(OWN.format(bind=f"127.0.0.1:{free_port()}", word="own").encode() + ENCODED)
    options: dict[str, Any] = {"path": external.config, "adopt": True, "stats_socket": external.stats_socket}
    options["command"] = ["kill", "-USR2", str(external.process.pid)]
    async with drive(services={"web": {"bind": bind}}, include=own, external=options) as driver:
        await driver.apply(origins[0])
        await driver.apply_again()
        await driver.apply(origins[1])
        assert ways(driver) == {"runtime": 1, "reload": 1}
        assert (await driver.consumer.inspect())["refused"] == []
