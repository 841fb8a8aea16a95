"""Reloads of the configuration."""

from pathlib import Path

import structlog

from discovery.daemon.reloading import Reloads
from discovery.testing import eventually


async def test_what_programs_write_to_dev_null_is_no_change_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "discovery.toml"
    file.touch()
    reloaded: list[Path] = []

    def reloads(path: Path) -> Reloads:
        async def reload() -> None:
            reloaded.append(path)

        return Reloads(path, reload, structlog.get_logger())

    device, watched = reloads(Path("/dev/null")), reloads(file)
    for each in (device, watched):
        each.start()
    try:
        for _ in range(3):  # what is told of the file comes after what would be told of the device
            Path("/dev/null").write_text("x")
            before = reloaded.count(file)
            file.write_text(file.read_text() + "# later\n")
            await eventually(lambda: reloaded.count(file) > before)  # noqa: B023
    finally:
        for each in (device, watched):
            await each.stop()
    assert set(reloaded) == {file}
