"""Sessions of browsers that have logged in: random names, kept in memory, in bounded number and for a bounded time."""

import hashlib
import secrets

SESSION_SECONDS = 12 * 3600.0
"""Seconds of a session: a working day."""
MOST_SESSIONS = 100
"""Sessions at a time: more people than look at a daemon; the oldest makes room."""


class Sessions:
    """The sessions of one server. A session ends with its time, and with the token by which it was begun."""

    def __init__(self) -> None:
        """Begin with none."""
        self._sessions: dict[bytes, tuple[float, bytes]] = {}  # by digest, the oldest first: until when, by which token

    def begin(self, token: str, now: float) -> str:
        """Return the name of a new session, which nobody can guess. `now` is a time of a clock that only goes on."""
        name = secrets.token_urlsafe(32)
        self._sessions[_digest(name)] = now + SESSION_SECONDS, _digest(token)
        while len(self._sessions) > MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return name

    def is_valid(self, name: str, token: str, now: float) -> bool:
        """Return True if `name` is that of a session which has not ended, and `token` is still the one of its begin."""
        until, begun_by = self._sessions.get(_digest(name), (0.0, b""))
        return now < until and begun_by == _digest(token)

    def end(self, name: str) -> None:
        """End the session of this name, if there is one."""
        self._sessions.pop(_digest(name), None)


def _digest(text: str) -> bytes:
    """What is compared and kept in place of a secret: how long a comparison takes tells nothing of it."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()
