"""Commands of `discovery` that are forked from a process in which everything is loaded, for tests that start very many.

To load is most of what a command costs: 0.5 s of processor time. A forked command is a process like any other, with
arguments, environment, streams and signals of its own, and runs `discovery.cli.main` as the program does. It lacks what
comes before that, and its command line in /proc: tests of these, and of daemons, start `python -m discovery`.
"""

import atexit
import errno
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from discovery.system.kernel import pidfd_open

_FORKED_FROM = ("discovery", "discovery_haproxy", "discovery_tcpproxy", "discovery_docker", "discovery_apache")
_COLD = (
    "discovery.testing",
    "discovery.demo",
    "discovery.tracing.otlp",  # of an extra
    "discovery.__main__",
    "discovery_tcpproxy.worker.__main__",
)
_LARGEST = 1 << 17


class Forked:
    """A command that runs, or has ended; it is used as `subprocess.Popen` is."""

    def __init__(self, args: list[str], status: int) -> None:
        self.args = args
        self.returncode: int | None = None
        self._status = socket.socket(fileno=status)
        told = self._status.recv(100)
        assert told, "what commands are forked from has ended"
        self.pid = int(told)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                told = self._status.recv(100)
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._status.close()
            self.returncode = int(told)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens to one that has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(*arguments: str, env: Mapping[str, str], stdout: int | IO[Any], stderr: int | IO[Any]) -> Forked:
    """`discovery` with these arguments, in a process group of its own, with nothing to read."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    streams = [each if isinstance(each, int) else each.fileno() for each in (stdout, stderr)]
    asked = json.dumps([arguments, dict(env), str(Path.cwd())]).encode()
    assert len(asked) < _LARGEST
    with theirs:
        socket.send_fds(_loaded(), [asked], [*streams, theirs.fileno()])
    return Forked(["discovery", *arguments], ours.detach())


def suits(env: Mapping[str, str]) -> bool:
    """Whether a forked command is as one that is started: PYTHONPATH has nothing that acts on what is loaded."""
    places = [Path(each) for each in env.get("PYTHONPATH", "").split(os.pathsep) if each]
    return not any((place / name).exists() for place in places for name in ("sitecustomize.py", *_FORKED_FROM))


def run(*arguments: str, env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of `discovery` with these arguments: what it wrote, and its exit code."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        command = start(*arguments, env=env, stdout=stdout, stderr=stderr)
        try:
            code = command.wait(timeout)
        finally:
            command.kill()
        for each in (stdout, stderr):
            each.seek(0)
        return subprocess.CompletedProcess(command.args, code, stdout.read(), stderr.read())


@cache
def _loaded() -> socket.socket:
    """A connection to a process that forks commands: one for all processes that test together, which ends after them.

    The first of these that needs the process has its address, and starts it.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    address = f"\0discovery-warm-{run or os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            listener.listen(100)
            _start(listener.fileno(), os.getppid() if run else os.getpid())
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    while True:
        try:
            asking.connect(address)
        except ConnectionRefusedError:  # another has bound the address, and is about to listen
            time.sleep(0.001)
        else:
            return asking


def _start(listener: int, until: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLUMNS")}
    subprocess.Popen(
        [sys.executable, __file__, str(listener), str(until)],
        pass_fds=[listener],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for those who test
    )


def _load() -> None:
    for name in _FORKED_FROM:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.startswith(_COLD):
                importlib.import_module(module.name)
    gc.freeze()


def _serve(listener: socket.socket, until: int) -> list[str] | None:
    """Fork commands until the process `until` ends: the arguments in a command, None in the end."""
    before = set(os.environ)
    _load()
    loading = {name: value for name, value in os.environ.items() if name not in before}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    askers: set[socket.socket] = set()
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(pidfd_open(until), selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    asker, _ = listener.accept()
                    if _is_ours(asker):
                        askers.add(asker)
                        selector.register(asker, selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket):
                    asked, descriptors, _, _ = socket.recv_fds(key.fileobj, _LARGEST, 3)
                    if not asked:
                        selector.unregister(key.fileobj)
                        askers.remove(key.fileobj)
                        key.fileobj.close()
                        continue
                    pid = os.fork()
                    if pid == 0:
                        selector.close()
                        for each in (listener, *askers):
                            each.detach()
                        return _become(*json.loads(asked), descriptors, loading)
                    for each in descriptors[:2]:
                        os.close(each)
                    _tell(descriptors[2], pid)
                    selector.register(pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[2]))
                elif key.data is None:
                    return None
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    pid, status = key.data
                    _tell(status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                    os.close(status)


def _is_ours(asker: socket.socket) -> bool:
    """Whether the other process is of the same user: the address is one that every process of this machine reaches."""
    credentials = asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1]) == os.getuid()


def _tell(status: int, number: int) -> None:
    with suppress(OSError):  # nobody waits for it any more
        os.write(status, str(number).encode())


def _become(
    arguments: list[str], env: dict[str, str], directory: str, descriptors: list[int], loading: dict[str, str]
) -> list[str]:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name, buffering in ((1, "stdout", -1), (2, "stderr", 1)):  # stderr is written line by line
        before = getattr(sys, name)  # it remembers where it was in another file
        os.dup2(descriptors[number - 1], number)
        stream = open(number, "w", buffering, encoding=before.encoding, errors=before.errors, closefd=False)  # noqa: SIM115 - it stays open
        setattr(sys, name, stream)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(loading | env)
    sys.argv = ["discovery", *arguments]
    sys.path[:1] = [directory, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    importlib.invalidate_caches()
    return arguments


def _end(code: int) -> None:
    """End as the interpreter does, except that what is still in use is not destroyed.

    To destroy an object is to write to its page of memory, which is then no longer shared with the process that forks:
    60 ms of processor time in all, where the rest of a short command takes 20 ms.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # objects that complain of how they end do so
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if (asked := _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))) is not None:
        from discovery.cli import main

        _end(main(asked))
