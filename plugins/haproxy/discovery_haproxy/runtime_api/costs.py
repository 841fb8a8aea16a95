"""Estimated times of changes by commands and by a reload, from measurements.

Measured with HAProxy 2.6.12 and 2.8.25 on two cores. A daemon learns how much slower or faster its machine is.
"""

from collections.abc import Iterable
from typing import NamedTuple

_ADD = 4e-5, 1e-11
"""Seconds of the commands that add a server, and more for the square of the number of servers of the section: 24,000/s
with 1,000 servers, 950/s with 10,000."""
_CHANGE = 1e-5, 1e-8
"""Seconds of any other command, and more for each server of the section: 60,000/s with 1,000 servers, 10,000/s with
10,000."""
_RING = 4e-5
"""Seconds for each unit of weight that a server gets on the ring of `random` or a consistent hash: 16 places, of which
each is inserted singly. A weight of 100 takes 2 to 9 ms."""
_OFF_RING = 1e-5
"""Seconds for each unit of weight of a server that is taken off the ring."""
_TEST = 5e-5
"""Seconds of this process for the test of a target that answers at once."""
_READ_BACK = 4e-5
"""Seconds for each server of the changed sections to be read back, before the change and after the change, while other
processes are busy: 0.4 s with 10,000 servers."""
_RELOAD = 0.05
"""Seconds of a reload with few servers: 57 ms (2.6) and 17 ms (2.8)."""
_RELOAD_SERVER = 2e-5, 7e-9
"""Seconds of a reload for each server, and for the square of the number of servers of a section."""

_PATIENCE = 1.0
"""Seconds that commands may take, however fast a reload is: so long the old servers go on serving."""
_PREFERENCE = 5.0
"""Number of times that commands may take as long as a reload. A reload costs memory for an old worker, a limit for the
life of its long connections, and all counters."""
_LEARNT_SECONDS = 0.005
"""Least estimated seconds of commands from which something is learnt: fewer are drowned by the answer's way."""
_LEAST_FACTOR, _MOST_FACTOR = 0.1, 20.0
"""Limits of what is learnt, so that one odd measurement decides nothing for long."""


class Costs(NamedTuple):
    """Factors of the measured times: how much slower this machine is than the machine of the measurements."""

    commands: float = 1.0
    reload: float = 1.0

    def after_commands(self, estimated: float, measured: float) -> "Costs":
        """Return the costs after commands, both times in seconds, of which `estimated` has no factor."""
        if estimated < _LEARNT_SECONDS:
            return self
        return self._replace(commands=_learn(self.commands, estimated, measured))

    def after_reload(self, sizes: Iterable[int], measured: float) -> "Costs":
        """Return the costs after a reload of sections with these numbers of servers, which took `measured` seconds."""
        return self._replace(reload=_learn(self.reload, reload_seconds(sizes), measured))


FIRST_COSTS = Costs()
"""Costs of a daemon that has measured nothing yet."""


def _learn(factor: float, estimated: float, measured: float) -> float:
    """Return the mean of the factor so far and the factor of this measurement."""
    return min(max((factor + measured / estimated) / 2, _LEAST_FACTOR), _MOST_FACTOR)


def addition_seconds(servers: int, ring_weight: int) -> float:
    """Return the time to add a server to a section with so many servers. `ring_weight` is 0 without a ring."""
    return _ADD[0] + _ADD[1] * servers**2 + _RING * ring_weight


def command_seconds(servers: int, ring_weight: int) -> float:
    """Return the time to change a server of a section with so many servers. `ring_weight` is 0 without a ring."""
    return _CHANGE[0] + _CHANGE[1] * servers + _RING * ring_weight


def removal_seconds(servers: int, ring_weight: int) -> float:
    """Return the time to remove a server from a section with so many servers. `ring_weight` is 0 without a ring."""
    return _CHANGE[0] + _CHANGE[1] * servers + _OFF_RING * ring_weight


def around_seconds(tests: int, servers: int) -> float:
    """Return the time for tests of targets, and for reading back the changed sections with so many servers."""
    return _TEST * tests + _READ_BACK * servers


def reload_seconds(sizes: Iterable[int]) -> float:
    """Return the time of a reload of sections with these numbers of servers."""
    return _RELOAD + sum(_RELOAD_SERVER[0] * servers + _RELOAD_SERVER[1] * servers**2 for servers in sizes)


def is_reload_better(commands: float, around: float, sizes: Iterable[int], costs: Costs) -> bool:
    """Report whether a reload is better than commands of `commands` seconds, with `around` seconds around these."""
    seconds = commands * costs.commands + around
    return seconds > _PATIENCE and seconds > _PREFERENCE * reload_seconds(sizes) * costs.reload
