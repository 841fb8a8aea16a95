"""Whether addresses can be listened on. `haproxy -c` does not tell, and a reload that cannot bind pauses everything."""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

from discovery.errors import ApplyError
from discovery_haproxy.process import look

_LISTENING = "0A"
_ANY = ("", "*")
_LONGEST_PATH = 97  # sockaddr_un holds 108, and HAProxy appends a suffix while it binds


def probe(binds: Iterable[str], ours: Callable[[], Collection[int]]) -> None:
    """Raise ApplyError for the first of `binds` that HAProxy could not listen on.

    What the processes `ours` listen on is no obstacle: HAProxy hands it over.
    """
    for bind in binds:
        if "/" in bind:
            _probe_path(bind, ours)
        else:
            _probe_address(bind, ours)


def _probe_address(bind: str, ours: Callable[[], Collection[int]]) -> None:
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    if not port.isdigit():
        return  # a form of a template's own, left to HAProxy
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # Not SO_REUSEPORT: with it the address could be shared with whoever has it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("" if host in _ANY else host, int(port)))
        except socket.gaierror:
            return
        except OSError as error:
            sockets = _listening(host, int(port)) if error.errno == errno.EADDRINUSE else {}
            holders = _owners(sockets)
            if holders and holders <= set(ours()):
                return
            if sockets and not holders and _are_hidden(ours(), set(sockets.values())):
                return
            raise ApplyError(_explain(bind, error, holders)) from None


def _explain(bind: str, error: OSError, holders: Collection[int]) -> str:
    if error.errno == errno.EADDRINUSE:
        names = ", ".join(f"{_name(pid)} (process {pid})" for pid in sorted(holders))
        return f"bind {bind} is in use{f' by {names}' if names else ''}: stop that, or choose another address"
    if error.errno == errno.EACCES:
        return f"bind {bind} is not permitted to this user: choose a port from 1024 up, or grant CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"bind {bind} is not an address of this machine: choose one that it has, or *:PORT"
    return f"bind {bind} cannot be used: {error.strerror}"


def _probe_path(bind: str, ours: Callable[[], Collection[int]]) -> None:
    path = Path(bind)
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ApplyError(f"bind {bind} is a path of more than {_LONGEST_PATH} bytes: choose a shorter one")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ApplyError(f"bind {bind} cannot be made: {path.parent} is not a directory that can be written to")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(bind)
        except OSError:
            return  # nobody, or what a dead process left: HAProxy replaces it
    inodes = {words[6] for words in _table("unix") if len(words) > 7 and words[7] == bind}
    holders = _owners(inodes)
    if not holders & set(ours()):
        raise ApplyError(_explain(bind, OSError(errno.EADDRINUSE, ""), holders))


def _listening(host: str, port: int) -> dict[str, str]:
    """The sockets, and for each its user, that listen where `host:port` would."""
    wanted = ipaddress.ip_address(0 if host in _ANY else host)
    return {
        words[9]: words[7]
        for table in ("tcp", "tcp6")
        for words in _table(table)
        if len(words) > 9 and words[3] == _LISTENING and _overlaps(words[1], wanted, port)
    }


def _are_hidden(ours: Iterable[int], users: set[str]) -> bool:
    """Whether the sockets of these users are of ours: the kernel hides what a program with capabilities has open."""
    return users == {str(os.geteuid())} and any((found := look(pid)) and not found.program for pid in ours)


def _overlaps(local: str, wanted: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bool:
    address, _, number = local.partition(":")
    if int(number, 16) != port:
        return False
    # The kernel prints 32-bit words in the machine's own byte order.
    words = struct.unpack(f">{len(address) // 8}I", bytes.fromhex(address))
    held = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return held == wanted or held.is_unspecified or wanted.is_unspecified


def _table(name: str) -> Iterable[list[str]]:
    try:
        return [line.split() for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    except OSError:
        return []


def _owners(inodes: Collection[str]) -> set[int]:
    """The processes that have these sockets; those of other users cannot be seen."""
    sought = {f"socket:[{inode}]" for inode in inodes}
    owners = set()
    for process in Path("/proc").glob("[0-9]*") if sought else ():
        with suppress(OSError):
            for descriptor in os.scandir(process / "fd"):
                with suppress(OSError):
                    if os.readlink(descriptor.path) in sought:  # noqa: PTH115 - it is no path
                        owners.add(int(process.name))
                        break
    return owners


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"
