"""Attempts with wrong credentials: how late each is answered, and which are a line of the log.

Nobody is locked out: a client behind one address with others, or a user of a machine, would be locked out by the wrong
attempts of others. What keeps a token from being guessed is its length, since a program that has received a proof can
try tokens offline, without any limit; the delay keeps a mistaken program from asking without a pause. An attempt that
waits for its answer has one of the few connections, so only a few wait.
"""

DELAY = 0.5
"""Seconds after which a wrong attempt is answered."""
MOST_DELAYED = 8
"""Wrong attempts that wait for their answers at a time, few of the connections; others are refused at once."""
LOG_SECONDS = 60.0
"""Seconds between two lines of the log about one client."""
_MOST_CLIENTS = 1000
"""Clients that are remembered: a bound on memory, and more than look at a daemon."""


class Attempts:
    """The wrong attempts of all clients."""

    def __init__(self) -> None:
        """Begin with none."""
        self._delayed = 0
        self._logged: dict[str, tuple[float, int]] = {}  # when, and how many since; the one of longest ago first

    def begin(self) -> float | None:
        """Return the seconds after which a wrong attempt is to be answered, then `end` is called; None: at once."""
        if self._delayed >= MOST_DELAYED:
            return None
        self._delayed += 1
        return DELAY

    def end(self) -> None:
        """Note that an attempt that was delayed waits no longer."""
        self._delayed -= 1

    def line(self, client: str, now: float) -> int:
        """Count a wrong attempt of the client; return how many a line of the log is to tell of, 0 for no line now."""
        when, times = self._logged.get(client, (-LOG_SECONDS, 0))
        if now - when < LOG_SECONDS:
            self._logged[client] = when, times + 1
            return 0
        self._logged.pop(client, None)
        self._logged[client] = now, 0
        if len(self._logged) > _MOST_CLIENTS:
            del self._logged[next(iter(self._logged))]
        return times + 1
