"""The pipe that HAProxy logs to."""

import asyncio
from pathlib import Path

import pytest
import structlog

from discovery_haproxy.logpipe import LogPipe


async def fail_to_open(directory: Path) -> LogPipe:
    pipe = LogPipe(directory / "gone" / "log.pipe", structlog.get_logger())
    with pytest.raises(FileNotFoundError):
        pipe.open()
    return pipe


def test_one_that_could_not_be_made_has_nothing_to_tell(tmp_path: Path) -> None:
    """Point 26. Who watches HAProxy reads its last words when it ends, and must go on to start it again."""
    pipe = asyncio.run(fail_to_open(tmp_path))
    pipe.drain()
    assert not pipe.tail
    assert not pipe.is_there()
