"""The records and leases in an SQLite file. Blocking; every call is a transaction of its own."""

import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from discovery.registry import RegistryUnavailableError

_BUSY_SECONDS = 5.0
"""Seconds to wait for the transaction of another process."""
_SCHEMA = """
CREATE TABLE meta(store TEXT, revision INTEGER);
CREATE TABLE leases(id TEXT PRIMARY KEY, ttl REAL, expires REAL);
CREATE TABLE records(key TEXT PRIMARY KEY, value BLOB, owner TEXT, lease TEXT, written INTEGER);
"""


@dataclass(frozen=True)
class State:
    """All records at a revision. `written` has the revision at which each record was written last."""

    store: str
    revision: int
    records: Mapping[str, bytes]
    written: Mapping[str, int]
    ttls: Mapping[str, float]


class Store:
    """The file. Raises RegistryUnavailableError where SQLite fails."""

    def __init__(self, path: Path) -> None:
        """Name the file, which is made on first use."""
        self._path = path
        self._is_made = False

    def state(self, known: State | None = None) -> State:
        """Return the records that have not expired: `known` itself if nothing has changed since."""
        with self.changing() as database:
            store, revision = database.execute("SELECT store, revision FROM meta").fetchone()
            if known is not None and (known.store, known.revision) == (store, revision):
                return known
            rows = database.execute(
                "SELECT key, value, written, ttl FROM records LEFT JOIN leases ON leases.id = records.lease"
            ).fetchall()
        return State(
            store,
            revision,
            {key: bytes(value) for key, value, _, _ in rows},
            {key: written for key, _, written, _ in rows},
            {key: ttl for key, _, _, ttl in rows if ttl is not None},
        )

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Run a block in a transaction, after the removal of what has expired."""
        try:
            with closing(self._connect()) as database, database:
                database.execute("BEGIN IMMEDIATE")
                self._expire(database)
                yield database
        except sqlite3.Error as error:
            raise RegistryUnavailableError(f"{self._path}: {error}") from None

    def _connect(self) -> sqlite3.Connection:
        if not self._is_made and not self._path.exists():
            with closing(sqlite3.connect(self._path, _BUSY_SECONDS)) as database, database:
                database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
                database.execute("INSERT INTO meta VALUES (?, 1)", (str(uuid.uuid4()),))
        self._is_made = True
        # Without isolation_level a transaction begins where the program says so.
        return sqlite3.connect(f"file:{self._path}?mode=rw", _BUSY_SECONDS, uri=True, isolation_level=None)

    @staticmethod
    def _expire(database: sqlite3.Connection) -> None:
        # By the wall clock, which all processes of the machine share.
        database.execute("DELETE FROM leases WHERE expires < ?", (time.time(),))
        gone = database.execute("DELETE FROM records WHERE lease IS NOT NULL AND lease NOT IN (SELECT id FROM leases)")
        if gone.rowcount:
            next_revision(database)


def next_revision(database: sqlite3.Connection) -> int:
    """Begin the next revision, and return its number."""
    database.execute("UPDATE meta SET revision = revision + 1")
    return int(database.execute("SELECT revision FROM meta").fetchone()[0])
