"""Ending what runs on a run directory: its daemons, in order, and what has outlived one."""

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from discovery.daemon.turn import DAEMON_LOCKS, DRAINING_LOCKS
from discovery.errors import CannotStartError, DiscoveryError, PluginError, describe
from discovery.hosting import loading as plugins
from discovery.plugin import AnyConsumer, Consumer, Context
from discovery.system import rundir
from discovery.system.either import completed
from discovery.system.files import ABSENT
from discovery.system.listening import process_ids
from discovery.system.process import ProcessHandle


class RunningDaemon(NamedTuple):
    """A running daemon, and the instances whose directories the daemon holds."""

    pid: int
    instances: tuple[str, ...]


class Orphan(NamedTuple):
    """A process that outlived its daemon, and the instance of that process; `what` is for a person."""

    pid: int
    instance: str
    what: str


def find_daemons(run_dir: Path) -> list[RunningDaemon]:
    """Return the daemons that run on `run_dir`, also those that start, and those that were replaced and drain.

    Raises OSError if /proc cannot be read, as without a free descriptor.
    """
    held: dict[int, list[str]] = {}
    for pattern in DAEMON_LOCKS:
        for path in sorted(run_dir.glob(pattern)):
            if (pid := rundir.holder(path)) is not None:
                held.setdefault(pid, [])
            elif path.match(DRAINING_LOCKS) and not Path("/proc", path.name.split(".")[-3]).exists():
                path.unlink(missing_ok=True)  # left by a process that was killed
    for path in sorted(run_dir.glob("*/lock")):
        if (pid := rundir.holder(path)) is not None:
            held.setdefault(pid, []).append(path.parent.name)
    return [RunningDaemon(pid, tuple(instances)) for pid, instances in held.items() if pid != os.getpid()]


async def stop_daemon(daemon: RunningDaemon, timeout: float) -> None:
    """Ask a daemon to stop. Raises DiscoveryError if it runs after `timeout` seconds, or cannot be signalled."""
    try:
        with ProcessHandle(daemon.pid) as process:
            process.send_signal(signal.SIGTERM)
            ended = await process.wait(timeout)
    except ProcessLookupError:
        return
    except PermissionError:
        raise DiscoveryError(f"process {daemon.pid} belongs to another user; stop it as that one") from None
    if not ended:
        raise DiscoveryError(
            f"process {daemon.pid} has not ended within {timeout:g} s; give it longer with --timeout,"
            f" or end it with `kill -9 {daemon.pid}` and run this again"
        )


async def end_orphans(run_dir: Path, log: FilteringBoundLogger) -> tuple[list[Orphan], dict[str, str]]:
    """End what outlived daemons on `run_dir`: what that was, and for each instance that could not be ended, why."""
    ended: list[Orphan] = []
    failed: dict[str, str] = {}
    instances = _left_instances(run_dir)
    classes = _classes_that_end_orphans(log) if instances else []
    for name in instances:
        try:
            directory = run_dir / name
            # Of one that has been removed no daemon has the lock, and none is to be made for it.
            with rundir.lock(directory / "lock", name) if directory.is_dir() else nullcontext():
                context = Context(name, directory, log.bind(consumer=name))
                for consumer in classes:
                    found = await completed(consumer.end_orphans(context))
                    ended += [Orphan(pid, name, what) for pid, what in found.items()]
        except CannotStartError as error:
            failed[name] = str(error)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            failed[name] = describe(error)
    return ended, failed


def warn_of_orphans(run_dir: Path, configured: Collection[str], log: FilteringBoundLogger) -> None:
    """Name the instances, but for those `configured`, whose processes run although their daemon was killed."""
    locks = [path for path in run_dir.glob("*/lock") if path.parent.name not in configured]
    killed = {path.parent.name for path in locks if rundir.holder(path) is None}
    if killed and (names := sorted(killed.intersection(_instances_of_processes(run_dir)))):
        way_out = f"start one that has them, or run `discovery stop --run-dir {run_dir}`, which ends this one as well"
        text = f"processes of a killed daemon still run, of instances that this daemon does not have; {way_out}"
        log.warning(text, instances=", ".join(names))


def _left_instances(run_dir: Path) -> list[str]:
    """Those that were not stopped in order, which removes the lock, and those whose processes name their directory."""
    return sorted({path.parent.name for path in run_dir.glob("*/lock")} | set(_instances_of_processes(run_dir)))


def _instances_of_processes(run_dir: Path) -> Iterator[str]:
    """Return the instances that the arguments of this user's processes name below `run_dir`."""
    for place in (Path(f"/proc/{pid}") for pid in process_ids()):
        with suppress(*ABSENT):
            arguments = (place / "cmdline").read_bytes().split(b"\0") if place.stat().st_uid == os.geteuid() else ()
            for path in map(Path, map(os.fsdecode, arguments)):
                if run_dir in path.parents:
                    name = path.relative_to(run_dir).parts[0]
                    if (run_dir / name).is_dir() or not (run_dir / name).exists():
                        yield name


def _classes_that_end_orphans(log: FilteringBoundLogger) -> list[type[AnyConsumer]]:
    """The installed consumers that may leave processes behind; a plugin that cannot be loaded cannot be asked."""
    found: list[type[AnyConsumer]] = []
    for name in plugins.installed():
        try:
            consumers = plugins.load(name).consumers.values()
        except PluginError as error:
            log.warning("a plugin cannot be asked what it left", reason=str(error))
        else:
            found += [each for each in consumers if _ends_orphans(each)]
    return found


def _ends_orphans(consumer: type[AnyConsumer]) -> bool:
    """Return True if a consumer class has an `end_orphans` of its own."""
    ours = consumer.__mro__[: consumer.__mro__.index(Consumer)]
    return any("end_orphans" in vars(each) for each in ours)
