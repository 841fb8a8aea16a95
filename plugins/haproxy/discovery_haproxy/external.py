"""A HAProxy that another program runs: the plugin writes its file and asks for reloads; it never starts or stops it."""

import asyncio
import stat
from contextlib import suppress

from structlog.typing import FilteringBoundLogger

from discovery.errors import ApplyError
from discovery.plugin import Health
from discovery_haproxy import reload
from discovery_haproxy.binary import Binary, run
from discovery_haproxy.config import ExternalConfig
from discovery_haproxy.control import Control, ControlError
from discovery_haproxy.install import install, stage
from discovery_haproxy.process import named


class External:
    """The file and the way to reload it."""

    running = True

    def __init__(self, config: ExternalConfig, log: FilteringBoundLogger) -> None:
        """Keep the arguments."""
        self.path = config.path.resolve()
        self.live: str | None = None
        """The generation that was last made to serve."""
        self._config = config
        self._log = log
        if config.master_socket is not None:
            self._control: Control | None = Control(config.master_socket)
        elif config.stats_socket is not None:
            self._control = Control(config.stats_socket, master=False)
        else:
            self._control = None

    async def open(self) -> None:
        """Ask which generation it serves, where that can be known."""
        if self._control is not None:
            with suppress(ControlError):
                self.live = await self._control.generation(1.0)

    async def prepare(self, text: str) -> None:
        """Do what can be done before `text` is known to be good. Raises ApplyError."""
        try:
            state = self.path.stat()
            mode, owner = stat.S_IMODE(state.st_mode), (state.st_uid, state.st_gid)
        except FileNotFoundError:
            mode, owner = 0o644, None
        except OSError as error:
            raise ApplyError(f"{self.path} cannot be looked at: {error.strerror}") from None
        await asyncio.to_thread(stage, self.path, text.encode(), mode, owner)

    async def deploy(self, generation: str, _binary: Binary, _unchecked: str | None) -> None:
        """Make what was prepared serve; it is always checked. Raises ApplyError; what served then goes on serving."""
        self.live = None
        await install(self.path, lambda: self._reload(generation))
        self.live = generation

    def pids(self) -> set[int]:
        """The processes that may already have the addresses: any HAProxy."""
        return named("haproxy")

    async def health(self) -> Health:
        """Whether it answers, where that can be known."""
        if self._control is None:
            return Health()
        try:
            await self._control.generation(2.0)
        except ControlError as error:
            return Health(ok=False, detail=f"HAProxy does not answer: {error}")
        return Health()

    async def close(self) -> None:
        """Leave it running."""

    async def _reload(self, generation: str) -> None:
        config = self._config
        if config.master_socket is not None and self._control is not None:
            try:
                await reload.through_master(self._control, generation, config.timeout)
            except ControlError as error:
                raise ApplyError(
                    f"the master socket {error}: is HAProxy running with -W -S {config.master_socket}?"
                ) from None
            return
        command = list(config.command or ("systemctl", "reload", str(config.systemd_unit)))
        status, output = await run(command, config.timeout)
        if status != 0:
            lines = [line.strip() for line in output.splitlines() if line.strip()]
            reason = lines[-1][:300] if lines else "it printed nothing"
            raise ApplyError(f"`{' '.join(command)[:100]}` failed with exit {status}: {reason}")
        if self._control is not None:
            await reload.prove(self._control, generation, config.timeout)
