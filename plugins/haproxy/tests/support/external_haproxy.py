"""A HAProxy in master-worker mode that another program than the plugin has started."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from discovery.testing import eventually, eventually_sync
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.program.process import find_processes

EMPTY = "global\n    stats socket {stats} level admin\ndefaults\n    mode http\n    timeout client 5s\n"


@dataclass
class ExternalProcess:
    """A HAProxy in master-worker mode that the plugin did not start."""

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def config(self) -> Path:
        return self.directory / "etc.cfg"

    @property
    def master_socket(self) -> Path:
        return self.directory / "external.sock"

    @property
    def stats_socket(self) -> Path:
        return self.directory / "stats.sock"

    def answers(self) -> bool:
        assert self.process.poll() is None, "HAProxy does not start"
        with suppress(ControlError):
            return asyncio.run(self.reloads()) == 0
        return False

    async def reload(self) -> None:
        """Reload HAProxy as an operator does; again if the master forgets, while the reload before still ends."""
        before = await self.reloads()

        async def is_reloaded() -> bool:
            assert self.process.poll() is None, "HAProxy has ended"
            with suppress(ControlError):  # on a busy machine the master is away for longer than an answer may take
                return await self.reloads() > before
            return False

        while True:
            os.kill(self.process.pid, signal.SIGUSR2)
            with suppress(AssertionError):
                await eventually(is_reloaded, "the reload", timeout=1)
                return
            assert self.process.poll() is None, "HAProxy has ended"

    async def reloads(self) -> int:
        return (await ControlSocket(self.master_socket).processes()).reloads


@contextmanager
def run_external(haproxy: Path, directory: Path, files: Sequence[Path] = ()) -> Iterator[ExternalProcess]:
    """Run HAProxy with these files, by default `etc.cfg` of the directory, until the block ends."""
    socket = f"{directory}/external.sock,mode,600"
    named = [argument for file in files or (directory / "etc.cfg",) for argument in ("-f", str(file))]
    with subprocess.Popen(
        [haproxy, "-W", "-S", socket, *named], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        external = ExternalProcess(directory, process)
        # What serves may be there before the master, which until then dies of a request to reload, or forgets it.
        eventually_sync(external.answers, "the external HAProxy to be ready")
        yield external
        for each in find_processes(socket):
            os.kill(each.pid, signal.SIGKILL)
    eventually_sync(lambda: not find_processes(socket), "the external HAProxy to be gone")
