"""Workers that have outlived their daemon are taken over, also after an attempt that was broken off."""

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import structlog
from proxying import address, on_a_loop

from discovery_tcpproxy.adoption import adopt
from discovery_tcpproxy.config import TcpProxyConfig
from discovery_tcpproxy.listeners import open_listener
from discovery_tcpproxy.targets import settings
from discovery_tcpproxy.worker_process import WorkerProcess


@on_a_loop
async def test_one_that_is_broken_off_leaves_the_worker_to_the_next() -> None:
    """Point 14. The worker obeys one daemon at a time: a connection that nobody uses must not be left open."""
    web, log = address(), structlog.get_logger()
    config = TcpProxyConfig.model_validate({"listen": {"web": web}})
    listening = open_listener("web", web, 0o600)
    with tempfile.TemporaryDirectory(prefix="tp-") as directory:
        worker = WorkerProcess.start(0, Path(directory), log, 20.0)
        await worker.tell(settings(config, 0), {"web": (listening,)}, {}, 1.0)
        listening.close()
        os.kill(worker.pid, signal.SIGSTOP)
        worker.leave()
        broken_off = asyncio.create_task(adopt(Path(directory), log))
        await asyncio.wait({broken_off}, timeout=0.5)  # it has asked, and waits for an answer
        broken_off.cancel()
        await asyncio.wait({broken_off})
        os.kill(worker.pid, signal.SIGCONT)
        found = await adopt(Path(directory), log)
        try:
            assert [each.worker.pid for each in found] == [worker.pid]
        finally:
            os.kill(worker.pid, signal.SIGKILL)
            for each in found:
                for sock in each.sockets.values():
                    sock.close()
                await each.worker.close()
