"""The pipe that HAProxy logs to."""

from pathlib import Path

import pytest
import structlog

from discovery_haproxy.managed.logpipe import LogPipe


async def test_a_pipe_that_could_not_be_created_has_no_lines(tmp_path: Path) -> None:
    """Point 26. The supervisor reads HAProxy's last lines when HAProxy ends, and must go on to start HAProxy again."""
    pipe = LogPipe(tmp_path / "gone" / "log.pipe", structlog.get_logger())
    with pytest.raises(FileNotFoundError):
        pipe.open()
    pipe.drain()
    assert not pipe.tail
    assert not pipe.is_there()
