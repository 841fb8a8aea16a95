"""The servers of a running HAProxy, read back by `show servers state`.

Format: HAProxy's management guide, "show servers state".
"""

import re
from ipaddress import ip_address
from typing import NamedTuple

from discovery_haproxy.runtime_api.planner import ServerKey
from discovery_haproxy.text.server_line import Server

FORCED_MAINTENANCE = 1
"""Bit of the administrative state that `set server ... state maint` sets."""
_CONFIGURED_MAINTENANCE = 4
"""Bit of the administrative state of a server with the word `disabled` in its line."""
FORCED_DRAIN = 8
"""Bit of the administrative state that `set server ... state drain` sets."""
_FAILED = 2
"""Result of a check that has failed."""
CHECK_CONFIGURED = 2
"""Bit of the check's state: the server has a check."""
CHECK_ENABLED = 4
"""Bit of the check's state: the check is not switched off by `disable health`."""
_CHECK_PAUSED = 8
"""Bit of the check's state: the server, which has a check, was put into maintenance."""
_COLUMNS = 19
"""Columns up to the port, which is the last that is read."""
_ROW = re.compile(
    "^[^ \n]+ (W W W W) W (W W W) W W W W (W) W W W W (W)".replace("W", "[^ \n]+"),
    re.MULTILINE,
)
"""A row without the columns that change by themselves: those of the traffic, of the time and of the check's result."""


class LiveServer(NamedTuple):
    """A server of the running HAProxy. `address` is an IP address, or "-"."""

    id: str
    address: str
    port: int
    weight: int
    up: bool
    removed: bool
    """True if the server was put into maintenance through a socket, as removed servers are until their deletion."""
    failed: bool
    """True if HAProxy's last check of the server has failed."""
    initial_weight: int
    """Weight with which this process got the server, from its file or by `add server`."""
    draining: bool
    """True if the server was set to drain through a socket."""
    disabled: bool
    """True if the line of the server has the word `disabled`."""
    checked: bool
    """True if the server has a check."""
    check_enabled: bool
    """False if the check is switched off, as by `disable health`."""
    check_paused: bool
    """True if maintenance interrupts the check; False for a server that was added and not been put into service yet."""


def parse_states(answer: str) -> dict[ServerKey, LiveServer]:
    """Parse the answer to `show servers state`. Raises ValueError for any other text."""
    if not answer.lstrip().startswith("1\n"):
        raise ValueError(f"not an answer to 'show servers state': {answer.strip()[:100]!r}")
    servers = {}
    for line in answer.splitlines():
        row = line.split(maxsplit=_COLUMNS)
        if len(row) < _COLUMNS or row[0].startswith("#"):
            continue
        _, section, id_, name, address, operational, administrative, weight, initial_weight = row[:9]
        state, check = int(administrative), int(row[13])
        servers[section, name] = LiveServer(
            id_,
            address,
            int(row[18]),
            int(weight),
            up=operational != "0",
            removed=bool(state & FORCED_MAINTENANCE),
            failed=row[11] == str(_FAILED),
            initial_weight=int(initial_weight),
            draining=bool(state & FORCED_DRAIN),
            disabled=bool(state & _CONFIGURED_MAINTENANCE),
            checked=bool(check & CHECK_CONFIGURED),
            check_enabled=bool(check & CHECK_ENABLED),
            check_paused=bool(check & _CHECK_PAUSED),
        )
    return servers


def digest(answer: str) -> int:
    """Return a hash of an answer to `show servers state`, without the columns that change by themselves."""
    return hash(tuple(_ROW.findall(answer)))


def is_at(server: Server, row: LiveServer) -> bool:
    """Report whether the live server has the address and port of `server`."""
    return row.address != "-" and (ip_address(row.address), row.port) == server.place
