"""What the admin endpoint asks the daemon, each at every request."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from discovery.admin.access import Access
from discovery.admin.members import MembersLook
from discovery.admin.status import DaemonStatus
from discovery.admin.waiters import Waiters
from discovery.consuming.history import Change
from discovery.consuming.runner import ConsumerRunner
from discovery.model import Snapshot

if TYPE_CHECKING:
    from discovery.providing.provider import RunningProvider


class Sources(NamedTuple):
    """Functions without arguments, for the core's loop.

    `hosts` returns the names under which clients may address the endpoint, `changes` the last changes of the registry,
    the oldest first, and `snapshot` the latest snapshot: `status` has it, too, and costs more. `waiters` are told when
    a snapshot comes, or is applied. `members` asks the registry of which servers it consists. `fleet` returns the
    daemons of the fleet as JSON, and `daemon` what this daemon tells the others of itself. `access` says who may ask.
    """

    status: Callable[[], DaemonStatus]
    consumers: Callable[[], Mapping[str, ConsumerRunner]] = dict
    providers: "Callable[[], Mapping[str, RunningProvider]]" = dict
    hosts: Callable[[], Collection[str]] = tuple
    changes: Callable[[], tuple[Change, ...]] = tuple
    snapshot: Callable[[], Snapshot | None] = lambda: None
    waiters: Waiters | None = None
    members: MembersLook | None = None
    fleet: Callable[[], Awaitable[dict[str, Any]]] | None = None
    daemon: Callable[[], dict[str, Any]] | None = None
    access: Callable[[], Access] = Access
