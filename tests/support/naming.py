"""A machine with a hosts file and a name server of its own, for tests of host names: a mount namespace and real DNS."""

import os
import random
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from discovery.testing import cannot_run, within

_random = random.SystemRandom()
_A, _AAAA = 1, 28
_NAME_ERROR, _NO_ERROR = 3, 0


class NameServer:
    """Answers A and AAAA questions over UDP at port 53 of a loopback address of its own; silent while it is `dead`."""

    def __init__(self) -> None:
        self.means: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.dead = False
        self._socket, self.address = _bound()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.close()
        self._thread.join(within(5))

    def _serve(self) -> None:
        self._socket.settimeout(0.2)
        while self._socket.fileno() >= 0:
            with suppress(OSError):
                question, client = self._socket.recvfrom(4096)
                name, kind = _question(question)
                self.asked.append(name)
                if not self.dead:
                    self._socket.sendto(self._answer(question, name, kind), client)

    def _answer(self, question: bytes, name: str, kind: int) -> bytes:
        family = {_A: socket.AF_INET, _AAAA: socket.AF_INET6}.get(kind)
        found = [each for each in self.means.get(name, ()) if family == (10 if ":" in each else 2)]
        end = 12 + len(name) + 2 + 4
        code = _NO_ERROR if name in self.means else _NAME_ERROR
        header = question[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(found), 0, 0)
        packed = [socket.inet_pton(family, each) for each in found] if family is not None else []
        records = (struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(each)) + each for each in packed)
        return header + question[12:end] + b"".join(records)


class Machine:
    """What programs that are started `under` it take for the machine's hosts file and resolv.conf."""

    def __init__(self, directory: Path, server: NameServer) -> None:
        self.server = server
        self._hosts = directory / "hosts"
        self._resolv = directory / "resolv.conf"
        self._hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
        self._resolv.write_text(f"nameserver {server.address}\nsearch corp.test\noptions timeout:1 attempts:1\n")
        unshare = shutil.which("unshare")
        self.under: tuple[str, ...] = ()
        if unshare is not None:
            mounts = 'mount --bind "$0" /etc/hosts && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
            own_user = () if os.geteuid() == 0 else ("-r",)
            self.under = (unshare, "-m", *own_user, "sh", "-c", mounts, str(self._hosts), str(self._resolv))

    @property
    def works(self) -> bool:
        if not self.under:
            return False
        return subprocess.run([*self.under, "true"], check=False, capture_output=True).returncode == 0

    def hosts(self, *lines: str) -> None:
        """Have these lines in the hosts file, besides localhost's."""
        # In place: a file put in place of it would not be the one that is mounted.
        text = "".join(f"{line}\n" for line in ("127.0.0.1 localhost", "::1 localhost", *lines))
        with self._hosts.open("r+") as file:
            file.write(text)
            file.truncate()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Skips the test, or in CI fails it, where a mount namespace or port 53 cannot be had."""
    try:
        server = NameServer()
    except OSError as error:
        cannot_run(f"a name server needs port 53: {error.strerror}")
    try:
        machine = Machine(tmp_path, server)
        if not machine.works:
            cannot_run("another hosts file needs unshare and mount, as root")
        yield machine
    finally:
        server.close()


def _bound() -> tuple[socket.socket, str]:
    for _ in range(100):
        address = f"127.{_random.randrange(2, 255)}.{_random.randrange(256)}.{_random.randrange(1, 255)}"
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind((address, 53))
        except PermissionError:
            sock.close()
            raise
        except OSError:
            sock.close()
            continue
        return sock, address
    raise OSError("no loopback address is free at port 53")


def _question(packet: bytes) -> tuple[str, int]:
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
        at += 1 + packet[at]
    return ".".join(labels), struct.unpack_from(">H", packet, at + 1)[0]
