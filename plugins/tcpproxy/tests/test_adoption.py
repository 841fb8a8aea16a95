"""Workers that have outlived their daemon are taken over or ended, also by an attempt that is broken off."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
from descriptors import readable

from discovery import Context
from discovery.system.kernel import pidfd_open
from discovery.testing import eventually
from discovery_tcpproxy.adoption import adopt
from discovery_tcpproxy.config import TcpProxyConfig
from discovery_tcpproxy.consumer import TcpProxyConsumer
from discovery_tcpproxy.listening_sockets import open_listening_socket
from discovery_tcpproxy.targets import settings
from discovery_tcpproxy.timing import Timing
from discovery_tcpproxy.worker_process import WorkerProcess

from .driving import address


class Left:
    """A stopped (SIGSTOP) worker that listens and has no daemon."""

    def __init__(self, run_dir: Path, config: TcpProxyConfig, pid: int) -> None:
        self.run_dir = run_dir
        self.config = config
        self.pid = pid
        self.descriptor = pidfd_open(pid)

    def has_ended(self) -> bool:
        return bool(readable([self.descriptor], 0))

    def consumer(self) -> TcpProxyConsumer:
        return TcpProxyConsumer(self.config, self.context)

    @property
    def context(self) -> Context:
        return Context("tcpproxy", self.run_dir, structlog.get_logger())


@asynccontextmanager
async def left() -> AsyncIterator[Left]:
    web = address()
    config = TcpProxyConfig.model_validate({"listen": {"web": web}, "workers": 1, "grace": 1.0})
    listening = open_listening_socket("web", web, 0o600)
    with tempfile.TemporaryDirectory(prefix="tp-") as directory:
        worker = WorkerProcess.start(0, Path(directory), structlog.get_logger(), Timing(answer=20.0))
        await worker.configure(settings(config, 0), {"web": (listening,)}, {}, 1.0)
        listening.close()
        each = Left(Path(directory), config, worker.pid)
        os.kill(worker.pid, signal.SIGSTOP)
        worker.release()
        try:
            yield each
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            os.close(each.descriptor)


async def test_a_cancelled_adoption_leaves_the_worker_to_the_next_daemon() -> None:
    """Point 14. The worker obeys one daemon at a time: a connection that nobody uses must not be left open."""
    async with left() as worker:
        broken_off = asyncio.create_task(adopt(worker.run_dir, structlog.get_logger()))
        await asyncio.wait({broken_off}, timeout=0.5)  # it has asked, and waits for an answer
        broken_off.cancel()
        await asyncio.wait({broken_off})
        os.kill(worker.pid, signal.SIGCONT)
        found = await adopt(worker.run_dir, structlog.get_logger())
        try:
            assert [each.worker.pid for each in found] == [worker.pid]
        finally:
            for each in found:
                for sock in each.sockets.values():
                    sock.close()
                await each.worker.close()


async def test_a_daemon_that_is_stopped_during_adoption_ends_the_worker() -> None:
    """Point 14. The stop cancels the setup; teardown ends the worker as it does one that was taken over."""
    async with left() as worker:
        consumer = worker.consumer()
        setup = asyncio.create_task(consumer.setup())
        await asyncio.wait({setup}, timeout=0.5)  # it has asked, and waits for an answer
        setup.cancel()
        os.kill(worker.pid, signal.SIGCONT)
        await asyncio.wait({setup})
        assert setup.cancelled()
        await consumer.teardown()
        await eventually(worker.has_ended, timeout=60)


async def test_end_orphans_reports_a_hanging_worker() -> None:
    """Point 14. `discovery stop` lists what it ends, by force too."""
    async with left() as worker:
        assert await TcpProxyConsumer.end_orphans(worker.context) == {worker.pid: "a worker of the TCP proxy"}
        assert worker.has_ended()


async def test_an_orphaned_worker_logs_to_the_stderr_of_the_last_daemon() -> None:
    """Point 14. The first one's may be a pipe that nobody reads any more."""
    structlog.configure(processors=[structlog.processors.JSONRenderer()])  # as --log-format json of the last daemon
    async with left() as worker:
        os.kill(worker.pid, signal.SIGCONT)
        reader, writer = os.pipe()
        kept = os.dup(2)
        os.dup2(writer, 2)
        os.close(writer)
        try:
            [second] = await adopt(worker.run_dir, structlog.get_logger())
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        for sock in second.sockets.values():
            sock.close()
        second.worker.release()
        line = json.loads(await asyncio.to_thread(os.read, reader, 1 << 16))
        os.close(reader)
        assert line["event"].startswith("the daemon has gone; connections of ")
        assert line["pid"] == worker.pid
