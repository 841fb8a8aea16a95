"""Ctrl-C under load: every request that HAProxy has taken is answered."""

import asyncio
import os
import signal
from typing import Any

from daemons import RecordFiles, Starter
from web import after, get, refuses, serving

from discovery.testing import eventually, free_port, require_program, within

CLIENTS = 50


async def test_no_request_in_flight_is_cut(file_registry: RecordFiles, start_daemon: Starter) -> None:
    require_program("haproxy")
    url, write = file_registry
    bind, go_on = free_port(), asyncio.Event()
    async with serving(after(go_on)) as origin:
        write("web/a", f"127.0.0.1:{origin.port}")
        options = (f"haproxy.services.web.bind=127.0.0.1:{bind}", "haproxy.services.web.check=false")
        settings = [word for option in options for word in ("--set", option)]
        daemon = start_daemon("--plugin", "haproxy", "--registry", url, *settings)
        await eventually(lambda: _not(refuses(bind)), timeout=20)
        asks = [asyncio.create_task(get(bind)) for _ in range(CLIENTS)]
        await eventually(lambda: len(origin.requests) == CLIENTS)
        # As a terminal does it: to the whole foreground group.
        os.killpg(daemon.process.pid, signal.SIGINT)
        await eventually(lambda: "stopping" in daemon.log)
        await eventually(lambda: refuses(bind), "new connections to be refused")
        go_on.set()
        replies = await asyncio.gather(*asks)
        assert all(reply.startswith(b"HTTP/1.1 200 ") and reply.endswith(b"It works!") for reply in replies)
        assert await asyncio.to_thread(daemon.process.wait, within(20)) == 0


async def _not(condition: Any) -> bool:
    return not await condition
