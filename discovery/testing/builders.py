"""Functions that make backends and snapshots for tests, with default values."""

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
    """Return a backend. `id` defaults to `host:port`, as `discovery register` would choose the id.

    `service`, `host`, `port`, `weight`, `state` and `labels` are those of `Backend`. Nothing is validated.
    """
    return Backend(service, f"{host}:{port}" if id is None else id, host, port, weight, state, labels or {})


def snapshot(*backends: Backend, revision: int = 1) -> Snapshot:
    """Return a snapshot of `backends`, in any order, at `revision`."""
    return Snapshot.of(revision, backends)
