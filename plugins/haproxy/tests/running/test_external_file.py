"""The file of an external HAProxy: a file that a person wrote is not overwritten unasked, and never lost."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from haproxy_driver import ConsumerDriver, Drive

from discovery import ApplyError, Backend, Snapshot, Update, diff
from discovery.testing import free_port

Origins = tuple[Backend, ...]
WRITTEN_BY_A_PERSON = "global\n    maxconn 100\n\ndefaults\n    mode http\n"
MARK = "# Written by discovery"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the configuration file, which does not exist."""
    return tmp_path / "haproxy.cfg"


@pytest.fixture
def before(path: Path) -> Path:
    """Return the path at which the original file is kept."""
    return path.with_name("haproxy.cfg.before-discovery")


def options(path: Path, **external: Any) -> dict[str, Any]:
    return {
        "services": {"web": {"bind": f"127.0.0.1:{free_port()}"}},
        "external": {"path": path, "command": ["true"], **external},
    }


async def faults(driver: ConsumerDriver) -> tuple[str, ...]:
    """Return what `config check` and `--dry-run` report."""
    snapshot = Snapshot.of(1, ())
    return (await driver.consumer.validate(Update(snapshot, None, diff(None, snapshot)))).faults


async def test_a_file_that_discovery_did_not_write_is_not_overwritten(
    drive: Drive, path: Path, tmp_path: Path, origins: Origins
) -> None:
    path.write_text(WRITTEN_BY_A_PERSON)
    remedy = rf"{path} was not written by discovery.*external.adopt = true.*{path}.before-discovery"
    async with drive(**options(path)) as driver:
        for _ in range(2):
            with pytest.raises(ApplyError, match=remedy) as error:
                await driver.apply(origins[0])
            assert "\n" not in str(error.value)
        assert [str(error.value)] == list(await faults(driver))
    assert path.read_text() == WRITTEN_BY_A_PERSON
    assert list(tmp_path.iterdir()) == [path]


async def test_an_adopted_file_is_kept_for_ever_with_its_mode_and_owner(
    drive: Drive, path: Path, before: Path, origins: Origins
) -> None:
    path.write_text(WRITTEN_BY_A_PERSON)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1, 2)
    state = path.stat()
    async with drive(**options(path, adopt=True)) as driver:
        assert not await faults(driver)
        for origin in (*origins, origins[0]):
            await driver.apply(origin)
        assert path.read_text().startswith(MARK)
        path.write_text("global\n    maxconn 7\n")  # another file of a person
        await driver.apply(origins[1])
        assert path.read_text().startswith(MARK)
    for file in (before, path):
        now = file.stat()
        assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (state.st_uid, state.st_gid, 0o640)
    assert before.read_text() == WRITTEN_BY_A_PERSON
    assert before.stat().st_mtime_ns == state.st_mtime_ns


async def test_the_kept_file_is_a_file_of_its_own(drive: Drive, path: Path, before: Path, origins: Origins) -> None:
    path.write_text(WRITTEN_BY_A_PERSON)
    async with drive(**options(path, adopt=True, command=["false"])) as driver:
        with pytest.raises(ApplyError, match="failed with exit 1"):
            await driver.apply(origins[0])
    assert path.read_text() == before.read_text() == WRITTEN_BY_A_PERSON
    with path.open("a") as file:
        file.write("# edited in place\n")
    assert before.read_text() == WRITTEN_BY_A_PERSON


@pytest.mark.parametrize("content", [None, "", " \n\n"])
async def test_an_absent_or_empty_file_is_free(
    drive: Drive, path: Path, before: Path, origins: Origins, content: str | None
) -> None:
    if content is not None:
        path.write_text(content)
    async with drive(**options(path)) as driver:
        assert not await faults(driver)
        await driver.apply(origins[0])
    async with drive(**options(path)) as driver:  # the file is discovery's now
        assert not await faults(driver)
        await driver.apply(origins[1])
    assert not before.exists()


async def test_a_comment_above_the_mark_leaves_the_file_with_discovery(
    drive: Drive, path: Path, origins: Origins
) -> None:
    async with drive(**options(path)) as driver:
        await driver.apply(origins[0])
        path.write_text(f"\n# Managed by Ansible\n{path.read_text()}")
        await driver.apply(origins[1])
        path.write_text(path.read_text().partition("\n")[2])  # a person takes the file over
        with pytest.raises(ApplyError, match="was not written by discovery"):
            await driver.apply(origins[0])
        path.write_text(f"global\n    maxconn 100\n{MARK}\n")  # a mark below other lines says nothing
        with pytest.raises(ApplyError, match="was not written by discovery"):
            await driver.apply(origins[0])


async def test_a_file_that_cannot_be_read_is_not_overwritten(drive: Drive, path: Path, origins: Origins) -> None:
    path.mkdir()
    async with drive(**options(path, adopt=True)) as driver:
        with pytest.raises(ApplyError, match=f"{path} cannot be read: Is a directory"):
            await driver.apply(origins[0])


async def test_a_directory_in_place_of_the_file_is_a_fault(drive: Drive, path: Path) -> None:
    path.mkdir()
    async with drive(**options(path)) as driver:
        assert await faults(driver) == (f"{path} is a directory: set external.path to a file in it",)
