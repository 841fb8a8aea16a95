"""The history of a registry prefix, as etcdctl reports the changes: independent of the code under test."""

import base64
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from discovery.system.embedded import EmbeddedEtcd, find_program
from discovery.testing import eventually_sync


@dataclass(frozen=True)
class Change:
    """A key that was put (`value`) or deleted (None) at a revision; `at` is `time.time()` when that was seen."""

    at: float
    revision: int
    key: str
    value: dict[str, Any] | None


@dataclass
class RegistryHistory:
    """Every change under a prefix of its own, as etcdctl tells it. A context manager.

    Keys are relative to the prefix. A backend's `name` is the container's in the plugin's default ids,
    `<machine>:<container>:<port>`.
    """

    etcd: EmbeddedEtcd
    prefix: str = field(default_factory=lambda: f"/{uuid.uuid4().hex[:8]}")
    changes: list[Change] = field(default_factory=list)
    login: tuple[str, ...] = ()
    """etcdctl's flags for a user."""

    @property
    def url(self) -> str:
        """What a daemon is given."""
        return f"{self.etcd.url}{self.prefix}"

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """What the changes add up to."""
        records: dict[str, dict[str, Any]] = {}
        for change in list(self.changes):
            if change.value is None:
                records.pop(change.key, None)
            else:
                records[change.key] = change.value
        return records

    @property
    def places(self) -> dict[str, str]:
        """Each registered container's `host:port`."""
        return {name_of(key): place(value) for key, value in self.records.items()}

    def of(self, name: str) -> list[Change]:
        """The changes of one container's record."""
        return [change for change in list(self.changes) if name_of(change.key) == name]

    def lists(self, *names: str, timeout: float = 20) -> None:
        """Wait until these containers are registered, and no other."""
        eventually_sync(
            lambda: sorted(self.places) == sorted(names), f"{names} in place of {self.places}", timeout=timeout
        )

    def wait(self, condition: Callable[[Change], bool], after: int = 0, timeout: float = 20) -> Change:
        """The first change, from the one numbered `after` on, that fulfils the condition; wait for it."""
        return eventually_sync(
            lambda: next(iter([change for change in self.changes[after:] if condition(change)]), None),
            f"a change after {self.changes[after:]}",
            timeout=timeout,
        )

    def now(self) -> dict[str, str]:
        """`places`, as etcd answers at this moment."""
        answer = json.loads(self.etcd.ctl("get", "--prefix", f"{self.prefix}/", "--write-out=json"))
        return {
            name_of(base64.b64decode(each["key"]).decode()): place(json.loads(base64.b64decode(each["value"])))
            for each in answer.get("kvs", ())
        }

    def revision(self) -> int:
        """Etcd's, at this moment."""
        return int(
            json.loads(self.etcd.ctl("endpoint", "status", "--write-out=json"))[0]["Status"]["header"]["revision"]
        )

    def lease_left(self, key: str) -> float:
        """Seconds for which the lease of a record lasts, as etcd answers at this moment."""
        options = (*self.login, "--write-out=json")
        record = json.loads(self.etcd.ctl("get", f"{self.prefix}/{key}", *options))["kvs"][0]
        lease = json.loads(self.etcd.ctl("lease", "timetolive", f"{record['lease']:x}", *options))
        return float(lease["ttl"])

    def renews(self, key: str, timeout: float = 60) -> None:
        """Wait until the lease of a record has been renewed since now."""
        began, left = time.monotonic(), self.lease_left(key)
        eventually_sync(
            lambda: self.lease_left(key) + time.monotonic() - began > left + 1.5,
            f"the lease of {key} to be renewed",
            timeout=timeout,
        )

    def __enter__(self) -> Self:
        command = [find_program("etcdctl"), f"--endpoints={self.etcd.endpoint}", "watch", "--prefix", f"{self.prefix}/"]
        self._process = subprocess.Popen(
            [*map(str, command), "--rev=1", "--write-out=json", *self.login],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._thread.join()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            at = time.time()
            for event in json.loads(line).get("Events") or ():
                kv = event["kv"]
                key = base64.b64decode(kv["key"]).decode().removeprefix(f"{self.prefix}/")
                value = json.loads(base64.b64decode(kv["value"])) if event.get("type", 0) == 0 else None
                self.changes.append(Change(at, kv["mod_revision"], key, value))


def name_of(key: str) -> str:
    """The container's name in a key."""
    return key.rpartition(":")[0].rpartition(":")[2]


def place(record: dict[str, Any]) -> str:
    """The `host:port` of a record."""
    return f"{record['host']}:{record['port']}"
