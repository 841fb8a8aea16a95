"""Debian's Apache httpd, run from a configuration of its own, with few workers so that a test can fill them."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from discovery.testing import eventually_sync, free_port, require_program, within

_MODULES = Path("/usr/lib/apache2/modules")
_CONFIG = """\
ServerRoot {directory}
DefaultRuntimeDir {directory}
ServerName httpd.invalid
User www-data
Group www-data
Listen 127.0.0.1:{port}
PidFile {directory}/pid
ErrorLog {directory}/error.log
{modules}
StartServers 1
ServerLimit {servers}
ThreadLimit {threads}
ThreadsPerChild {threads}
MaxRequestWorkers {workers}
MinSpareThreads 1
MaxSpareThreads {workers}
DocumentRoot /usr/share
<Location /server-status>
    SetHandler server-status
</Location>
<Location /forbidden>
    Require all denied
</Location>
"""


class Httpd:
    """An Apache on the loopback, `workers` threads in up to two processes."""

    def __init__(self, directory: Path, threads: int = 4, servers: int = 1) -> None:
        """Write its configuration."""
        self.port = free_port()
        self.workers = threads * servers
        self._program = require_program("apache2", wheel=False)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()
        self._config = directory / "httpd.conf"
        modules = "\n".join(
            f"LoadModule {name}_module {_MODULES}/mod_{name}.so" for name in ("mpm_event", "authz_core", "status")
        )
        self._config.write_text(
            _CONFIG.format(
                directory=directory,
                port=self.port,
                modules=modules,
                servers=servers,
                threads=threads,
                workers=self.workers,
            )
        )

    def url(self, path: str = "/server-status?auto") -> str:
        """Return the URL of a page."""
        return f"http://127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        """Start Apache, and wait for its first answer."""
        with (self._directory / "output.log").open("ab") as log:
            command = [self._program, "-DFOREGROUND", "-f", self._config]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        eventually_sync(lambda: b" 200 " in self.ask().split(b"\r\n", 1)[0], "Apache to answer")

    def signal(self, what: str) -> None:
        """Send Apache the control command `graceful` or `graceful-stop`."""
        subprocess.run(
            [self._program, "-f", self._config, "-k", what], check=True, capture_output=True, timeout=within(30)
        )

    def begin(self, request: str = "GET /server-status?auto HTTP/1.1") -> socket.socket:
        """Begin a request without its final empty line, which keeps a worker busy."""
        connection = self._held.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=within(10)))
        connection.sendall(f"{request}\r\nHost: x\r\nConnection: close\r\n".encode())
        return connection

    def ask(self, held: socket.socket | None = None) -> bytes:
        """Complete a request, by default a new request, and return the answer."""
        with held or self.begin() as connection:
            connection.sendall(b"\r\n")
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer

    def release(self) -> None:
        """Close the connections of all begun requests."""
        self._held.close()

    def wait_ended(self) -> None:
        """Wait for the end of Apache."""
        assert self._process is not None
        assert self._process.wait(timeout=within(30)) == 0

    def kill(self) -> None:
        """Terminate Apache and its children."""
        self.release()
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            self._process.wait(timeout=within(30))


@pytest.fixture
def httpd(tmp_path: Path) -> Iterator[Callable[..., Httpd]]:
    """Return a function that starts an Apache, which runs until the end of the test."""
    require_program("apache2", wheel=False)
    with ExitStack() as stack:

        def make(*, started: bool = True, **options: int) -> Httpd:
            directory = tmp_path / f"httpd-{len(list(tmp_path.iterdir()))}"
            directory.mkdir()
            server = Httpd(directory, **options)
            stack.callback(server.kill)
            if started:
                server.start()
            return server

        yield make
