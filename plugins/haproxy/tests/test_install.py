"""Replacement of a configuration file, and what stays beside the file."""

from pathlib import Path

import pytest

from discovery import ApplyError
from discovery_haproxy.deployment.install import install, last_good, restore, stage


async def _activate() -> None:
    """Accept the file."""


async def _refuse() -> None:
    raise RuntimeError("refused")


def _contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_as_a_whole_and_has_its_mode(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "haproxy.cfg"
    stage(path, (b"one",), 0o640, durable=durable)
    staged = tmp_path / "haproxy.cfg.new"
    with staged.open() as before:
        stage(path, (b"t", b"wo"), 0o600, durable=durable)
        assert before.read() == "one"
    assert staged.read_text() == "two"
    assert staged.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "haproxy.cfg"
    (tmp_path / "haproxy.cfg.new").mkdir()  # nothing takes the place of a directory
    with pytest.raises(ApplyError, match="cannot be written"):
        stage(path, (b"one",), 0o600, durable=durable)
    assert {each.name for each in tmp_path.iterdir()} == {"haproxy.cfg.new"}
    with pytest.raises(ApplyError, match="there is no directory"):
        stage(tmp_path / "none" / "haproxy.cfg", (b"one",), 0o600, durable=durable)


async def test_no_temporary_link_is_left_if_the_file_is_the_last_good_one(tmp_path: Path) -> None:
    """Issue 10, A8: a link over another link of the same file does nothing, and stays."""
    path = tmp_path / "haproxy.cfg"
    for text in ("one", "two"):
        stage(path, (text.encode(),), 0o600)
        await install(path, (), _activate)
    restore(path)
    stage(path, (b"three",), 0o600)
    await install(path, (), _activate)
    assert _contents(tmp_path) == {path.name: "three", last_good(path).name: "one"}


async def test_a_refused_file_leaves_the_previous_one_and_no_temporary_link(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    stage(path, (b"one",), 0o600)
    await install(path, (), _activate)
    for text in ("two", "three"):
        stage(path, (text.encode(),), 0o600)
        with pytest.raises(RuntimeError):
            await install(path, (), _refuse)
    assert _contents(tmp_path) == {path.name: "one", last_good(path).name: "one", f"{path.name}.new": "three"}
    stage(path, (b"four",), 0o600)
    await install(path, (), _activate)
    assert _contents(tmp_path) == {path.name: "four", last_good(path).name: "one"}


def test_a_link_that_cannot_take_its_place_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.mkdir()  # nothing takes the place of a directory
    last_good(path).write_text("one")
    with pytest.raises(OSError, match="directory"):
        restore(path)
    assert {each.name for each in tmp_path.iterdir()} == {path.name, last_good(path).name}
