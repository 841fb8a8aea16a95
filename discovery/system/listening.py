"""Sockets that listen on this machine, and the processes that hold these sockets, as far as /proc tells."""

import ipaddress
import os
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from discovery.system.files import ABSENT

_LISTENING = "0A"
_UNCONNECTED = "07"
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def binds_conflict(one: str, other: str) -> bool:
    """Return True if the kernel refuses to let two sockets listen at the addresses `one` and `other`.

    Each is `IP:PORT`, `[IPV6]:PORT` or the path of a Unix socket. An IPv6 socket counts as one that leaves IPv4 alone.
    """
    if one == other:
        return True
    if "/" in one + other or one.startswith("[") != other.startswith("["):
        return False
    (host, _, port), (another, _, its_port) = one.rpartition(":"), other.rpartition(":")
    return port == its_port and not {host, another}.isdisjoint({"0.0.0.0", "[::]"})  # noqa: S104 - compared alone


def tcp_sockets_listening_at(host: str, port: int, *, v6only: bool = False) -> Mapping[str, str]:
    """Return the TCP sockets that keep another socket from listening at `host:port`: inodes, with user ids.

    `host` is an IP address. With `v6only`, the other socket of an IPv6 address leaves IPv4 alone. See proc_net_tcp(5).
    Only sockets of this network namespace are found; none without /proc. Raises OSError if /proc cannot be read, as
    without a free descriptor. From any thread.
    """
    return SocketTable("tcp").sockets_at(host, port, v6only=v6only)


class SocketTable:
    """The listening TCP sockets, or the unconnected UDP sockets, of this network namespace when the table was read.

    For many questions, each of which `tcp_sockets_listening_at` would answer by reading /proc again. From any thread.
    """

    def __init__(self, protocol: Literal["tcp", "udp"]) -> None:
        """Read the table of the `protocol`, "tcp" or "udp". The table is empty if /proc/net cannot be read."""
        state = {"tcp": _LISTENING, "udp": _UNCONNECTED}[protocol]
        self._sockets: defaultdict[int, list[tuple[str, str, str]]] = defaultdict(list)
        for name in (protocol, f"{protocol}6"):
            for words in _table(name):
                if len(words) > 9 and words[3] == state:
                    address, _, port = words[1].partition(":")
                    self._sockets[int(port, 16)].append((address, words[9], words[7]))

    def sockets_at(self, host: str, port: int, *, v6only: bool = False) -> Mapping[str, str]:
        """Return the sockets that keep another socket from `host:port`: inodes, with user ids.

        `host` is an IP address. With `v6only`, the other socket of an IPv6 address leaves IPv4 alone.
        """
        wanted = ipaddress.ip_address(host)
        ipv4 = not (v6only and wanted.version == 6)
        return {
            inode: user
            for address, inode, user in self._sockets.get(port, ())
            if (ipv4 or _plain(address).version == 6) and _overlaps(_plain(address), wanted)
        }


def unix_sockets_at(path: str) -> Collection[str]:
    """Return the inodes of the Unix sockets that are bound to the path `path`, as bound.

    Raises OSError if /proc cannot be read, as without a free descriptor. From any thread.
    """
    return {words[6] for words in _table("unix") if len(words) > 7 and words[7] == path}


def processes_with_sockets(inodes: Collection[str]) -> set[int]:
    """Return the ids of the processes that have a socket of `inodes` open.

    Only root sees processes of other users. Reads the descriptors of every process: tens of milliseconds on a busy
    machine. Raises OSError if /proc cannot be read, as without a free descriptor. From any thread.
    """
    sought = {f"socket:[{inode}]" for inode in inodes}
    found = set()
    for pid in process_ids() if sought else ():
        with suppress(*ABSENT), os.scandir(f"/proc/{pid}/fd") as descriptors:
            for descriptor in descriptors:
                with suppress(*ABSENT):
                    if os.readlink(descriptor.path) in sought:  # noqa: PTH115 - it is no path
                        found.add(pid)
                        break
    return found


def process_ids() -> list[int]:
    """Return the ids of the processes that this process sees. Raises OSError if /proc cannot be read."""
    # Path.glob ignores errors in some versions of Python.
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def format_holders(pids: Iterable[int]) -> str:
    """Return the processes `pids` for an error message: ` by nginx (process 12)`, with a space before; empty for none.

    From any thread.
    """
    names = ", ".join(f"{_name(pid)} (process {pid})" for pid in sorted(pids))
    return f" by {names}" if names else ""


def _plain(address: str) -> _Address:
    """Return an address of the kernel's table. An IPv4-mapped address, as of sockets of gRPC and Java, is IPv4."""
    # The kernel prints 32-bit words in the machine's own byte order.
    words = struct.unpack(f">{len(address) // 8}I", bytes.fromhex(address))
    held = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return getattr(held, "ipv4_mapped", None) or held


def _overlaps(held: _Address, wanted: _Address) -> bool:
    wanted = getattr(wanted, "ipv4_mapped", None) or wanted
    return held == wanted or held.is_unspecified or wanted.is_unspecified


def _table(name: str) -> Iterable[list[str]]:
    try:
        return [line.split() for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    except ABSENT:
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"
