"""Who listens on an address already, as far as /proc tells: for errors alone."""

import ipaddress
import os
import struct
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"


def holders(host: str, port: int) -> str:
    """The programs that listen where `host:port` would, as `nginx (process 12)`; empty if they cannot be seen."""
    wanted = ipaddress.ip_address(host)
    tables = ("tcp", "tcp6") if wanted.version == 4 else ("tcp6",)  # [::] may take in IPv4
    return _names(
        words[9]
        for table in tables
        for words in _table(table)
        if len(words) > 9 and words[3] == _LISTENING and _overlaps(words[1], wanted, port)
    )


def holders_of_path(path: str) -> str:
    """The same for a Unix socket."""
    return _names(words[6] for words in _table("unix") if len(words) > 7 and words[7] == path)


def _names(inodes: Iterable[str]) -> str:
    return ", ".join(f"{_name(pid)} (process {pid})" for pid in sorted(_owners(set(inodes))))


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
