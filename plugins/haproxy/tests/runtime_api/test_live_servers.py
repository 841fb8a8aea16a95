"""The connection that is kept for the next change, while no worker answers."""

import asyncio
from pathlib import Path

import pytest
import structlog
from stats_socket import listening

from discovery.testing import eventually
from discovery_haproxy.runtime_api.connection import RuntimeApiError
from discovery_haproxy.runtime_api.live_servers import LiveServers

INFO = "Version: 2.8.25\nPid: 7\nStopping: {}\nStart_time_sec: 5"


async def test_no_connection_is_kept_to_a_worker_that_is_told_to_stop(path: Path) -> None:
    """The worker does not end before its connections."""
    servers = LiveServers(path, asyncio.Lock(), structlog.get_logger())
    async with listening(path) as socket:
        socket.answers |= {"show info": INFO.format(0), "show cli level": "admin"}
        await servers.worker()
        assert socket.open == 1
        socket.answers["show info"] = INFO.format(1)
        with pytest.raises(RuntimeApiError, match="being replaced"):
            await servers.worker()
        await eventually(lambda: socket.open == 0, "both connections to end")
