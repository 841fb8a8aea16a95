"""Backends and snapshots in few words, for tests."""

from collections.abc import Mapping

from discovery.model import Backend, Snapshot, State


def backend(
    service: str = "web",
    id: str | None = None,  # noqa: A002 - the field is called so
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    weight: int = 1,
    state: State = State.ACTIVE,
    labels: Mapping[str, str] | None = None,
) -> Backend:
    """A backend; its id is `host:port` unless given, as `discovery register` would choose it."""
    return Backend(service, f"{host}:{port}" if id is None else id, host, port, weight, state, labels or {})


def snapshot(*backends: Backend, revision: int = 1) -> Snapshot:
    """A snapshot of these backends."""
    return Snapshot.of(revision, backends)
