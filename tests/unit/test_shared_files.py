"""Two instances that would write one file are a fault, whichever plugins they have, and by whatever paths."""

import asyncio
from pathlib import Path

import structlog

from discovery import Consumer, PluginConfig, Update, Validation
from discovery.consuming.runner import ConsumerInstance
from discovery.daemon.instances import Instances
from discovery.daemon.validation import NOTHING, validate_instances
from discovery.hosting.directories import Directories


class Options(PluginConfig):
    files: tuple[str, ...]


class Writer(Consumer[Options]):
    Config = Options

    async def apply(self, update: Update) -> None:
        raise AssertionError

    async def validate(self, update: Update) -> Validation:
        return Validation(files=self.config.files)


def faults(directory: Path, **files: tuple[str, ...]) -> tuple[str, ...]:
    """Return the faults of consumers that would write these files."""
    consumers = {name: ConsumerInstance(name, "test", Writer, Options(files=each)) for name, each in files.items()}
    directories = Directories(directory / "run", directory / "state")
    log = structlog.get_logger()
    validated = asyncio.run(validate_instances(Instances(consumers, {}, {}), (NOTHING, NOTHING), directories, log))
    return validated.faults


def test_two_writers_of_one_file_are_a_fault_of_the_second(tmp_path: Path) -> None:
    assert faults(tmp_path, one=("/x/a", "/x/b"), other=("/x/c", "/x/../x/b")) == (
        "consumers.other: /x/../x/b, which is /x/b, is a file of consumers.one as well: give one another file",
    )


def test_a_symbolic_link_leads_to_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    link, file = str(tmp_path / "link"), str(tmp_path / "file")
    assert faults(tmp_path, one=(file,), other=(link,)) == (
        f"consumers.other: {link}, which is {file}, is a file of consumers.one as well: give one another file",
    )


def test_writers_of_different_files_and_one_that_names_a_file_twice_are_no_fault(tmp_path: Path) -> None:
    assert faults(tmp_path, one=("/x/a", "/x/a"), other=("/y/a",), third=()) == ()
