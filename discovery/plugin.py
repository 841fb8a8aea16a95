"""The interface of plugins: consumers and providers, their configuration, context and health."""

import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from structlog.typing import FilteringBoundLogger

from discovery.checks import Check
from discovery.model import Addresses, Backend, Changes, Snapshot
from discovery.system.either import Ready


class PluginConfig(BaseModel):
    """Base of a plugin's configuration: frozen, an unknown key is an error, and a docstring describes its field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the fields by their docstrings.

        Pydantic's `use_attribute_docstrings` does the same, but reads the source code whenever a class is created.
        """
        from discovery.descriptions import field_docstrings

        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in field_docstrings(cls).items():
            field = cls.model_fields.get(name)
            if field is not None and (described := properties.get(field.alias or name)) is not None:
                described.setdefault("description", text)
        return schema


C = TypeVar("C", bound=PluginConfig)
_UNSET = Path()


@dataclass(frozen=True, slots=True)
class Update:
    """The whole desired state, and what changed since `previous`.

    `previous` is the snapshot of the last `apply` of this consumer that succeeded; None if there is none. `addresses`
    has the IP addresses of backends that are registered by host name; None if the core has looked nothing up. When an
    address changes, the core calls `apply` again with the same snapshot and empty `changes`.

    `operator_request` is True if an operator has asked for this apply by a reload of the daemon's configuration. A
    consumer then tries again what it has given up; at the core's own retries it need not.
    """

    snapshot: Snapshot
    previous: Snapshot | None
    changes: Changes
    addresses: Addresses | None = None
    operator_request: bool = False

    def addresses_of(self, backend: Backend) -> tuple[str, ...]:
        """Return the IP addresses of `backend`, a backend of the snapshot, in the order of connection attempts.

        Addresses that accept connections come first. Empty if the host name has no known address. If `addresses` is
        None, the only entry is `backend.host`, even if that is a host name.
        """
        if self.addresses is None or not backend.is_named:
            return (backend.host,)
        return self.addresses.get((backend.host, backend.port), ())


@dataclass(frozen=True, slots=True)
class Health:
    """The health that a plugin reports: `ok`, and `detail`, one line for a person.

    `problems` has the faults of parts of the plugin's work: the reason in one line, by a name that the user knows
    (`service web`). The core logs each problem once, and shows it until the health lacks it. A plugin that is `ok` and
    has problems, or is `degraded`, does the rest of its work: `/api`, `/healthz` and the metrics show this state, and
    `/healthz` and `/readyz` still answer 200. A plugin that is not `ok` makes `/healthz` answer 503.

    `down` has backends of the registry that accept work, and that what a consumer drives finds down: the reason in one
    line, by key (`SERVICE/ID`), for at most 1,000 of them. This is no illness of the consumer; `discovery explain`,
    `discovery services --health` and the metrics show it. `watched` has the services of whose backends the consumer
    reads this: the metric of such a service is 0 while none of its backends is down.
    """

    ok: bool = True
    detail: str = ""
    degraded: bool = False
    problems: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    down: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    watched: frozenset[str] = frozenset()

    @property
    def state(self) -> Literal["ok", "degraded", "failing"]:
        """The state in a word."""
        return "failing" if not self.ok else "degraded" if self.degraded or self.problems else "ok"


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of checking a plugin's configuration without running the plugin. Each entry is one line for a person.

    `faults` would keep the plugin from working. `unchecked` names what cannot be checked on this machine, and why.
    `listens` are the addresses at which the plugin would listen, which the core compares with those of other instances:
    `IP:PORT`, `[IPV6]:PORT` or the path of a socket. `announces` are the addresses of this machine that a provider
    would announce, which `config check` prints: `str` of each `Announced`. `files` are the absolute paths of the files
    that the plugin would write outside its own directories, which the core compares as it compares `listens`: of two
    writers each undoes the other's work.
    """

    faults: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    listens: tuple[str, ...] = ()
    announces: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of the metrics of a consumer or provider.

    `name` has no prefix and ends with the unit: `connect_seconds`. `value` is the present value, and `labels`
    distinguish the samples of one name. The value of a `kind` "counter" never decreases. `help` describes the metric in
    one line.

    The core exposes the sample as `discovery_PLUGIN_NAME` (a counter as `discovery_PLUGIN_NAME_total`), and adds the
    label `consumer` or `provider`, the instance's name. `name` and label names consist of ASCII letters, digits and
    underscores.
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    kind: Literal["counter", "gauge"] = "counter"
    help: str = ""


class LeftOut(tuple[str, ...]):
    """No lines for a backend that a consumer leaves out, and the `reason`, one line. For `Consumer.explain`."""

    reason: str

    def __new__(cls, reason: str) -> Self:
        """Return an empty sequence with the reason."""
        made = super().__new__(cls)
        made.reason = reason
        return made


class LastResort(tuple[str, ...]):
    """The lines for a backend that drains or has the weight 0, and gets new work from a consumer all the same.

    A consumer may do so while every backend of the service drains or has the weight 0. For `Consumer.explain`.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Context:
    """The environment that the core gives to an instance of a plugin.

    `name` is the instance's name. `log` is the instance's logger (structlog), for any thread. `run_dir` is a directory
    for this instance alone. The directory exists and is locked from before `setup` until after `teardown`, but once
    `hand_over` has returned sockets, a successor may use the directory, too. In a dry run the directory need not exist,
    and the plugin writes nothing there.

    `state_dir` is a directory for this instance alone whose contents survive a reboot. The plugin creates the directory
    when it has something to keep, with mode 700; the directory may be lost at any time. The default, for contexts that
    a test makes, is `state` in `run_dir`. In a dry run the plugin may read there, and writes nothing.

    `request_apply` asks for another `apply` of the latest snapshot. A consumer calls `request_apply`, from any thread,
    when an input of its own, such as a template or a certificate, has changed.

    `request_discovery` asks for another `discover`: the core ends the present one, and begins another at once. A
    provider calls `request_discovery`, from any thread, when a generator that waits has something to find.

    `inherited` has listening sockets, and bound UDP sockets, that a predecessor or systemd handed over. `setup` takes a
    socket whose type and address (`getsockname`) the plugin wants by `socket.socket(fileno=each.detach())`. A
    predecessor that still accepts shares the socket and its blocking mode. The core closes sockets that no consumer
    takes. If `setup` fails, the core offers the same sockets to the next attempt.
    """

    name: str
    run_dir: Path
    log: FilteringBoundLogger
    request_apply: Callable[[], None] = lambda: None
    inherited: tuple[socket.socket, ...] = ()
    state_dir: Path = _UNSET
    request_discovery: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        """Set the default of `state_dir`."""
        if self.state_dir is _UNSET:
            object.__setattr__(self, "state_dir", self.run_dir / "state")


class Consumer(ABC, Generic[C]):
    """A consumer: makes a program or a file follow the registry.

    Each method may be written with `def` or with `async def`. Each instance has a thread and an event loop of its own.
    Every method runs there, one at a time, except where the method says otherwise. A method may block: that delays no
    other instance, only the tasks that this consumer has started. The core cancels a coroutine that takes too long or
    must end, and cannot interrupt a plain function: see `stop_seconds`. `__init__` runs on another thread.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    """The type of the configuration; the core validates it before the instance is made."""

    def __init__(self, config: C, context: Context) -> None:
        """Keep `config`, which is validated, and `context`. No I/O here: `setup` is for that."""
        self.config = config
        self.context = context

    @property
    def verify_seconds(self) -> float | None:
        """Seconds of the last `apply` in which the consumer waited for proof of the new state; None if not known.

        For the delays of `discovery history`. Asked after each `apply` that succeeds.
        """
        return None

    @property
    def resident(self) -> bool:
        """True if what the consumer drives ends with the daemon. Then `run --once` is a usage error."""
        return True

    def setup(self) -> Awaitable[None] | None:
        """Acquire resources. After an exception the core calls `setup` again later; after CannotStartError never."""
        return Ready(None)

    @abstractmethod
    def apply(self, update: Update) -> Awaitable[None] | None:
        """Establish the state that `update.snapshot` describes. Idempotent.

        After an exception the core calls `apply` again later.
        """

    def preview(self, update: Update) -> Awaitable[str] | str:
        """Return the changes that `apply` of `update` would make, as a unified diff; empty text if none.

        Writes nothing. Called without `setup`. Raises NotImplementedError if the consumer has no preview.
        """
        raise NotImplementedError(f"{type(self).__name__} has no preview")

    def validate(self, update: Update) -> Awaitable[Validation] | Validation:
        """Find faults that would keep `apply` of `update` from working. Changes nothing.

        `config check` and `run --dry-run` call `validate` without `setup`: with an empty snapshot, and with the current
        snapshot if the registry can be read. A DiscoveryError counts as a fault. The default finds nothing.
        """
        return Ready(Validation())

    def reconfigure(self, config: C) -> Awaitable[bool] | bool:
        """Adopt the new configuration `config` for the next `apply`. Return True if the consumer has adopted `config`.

        After False, the default, the core restarts the instance.
        """
        return Ready(False)

    def health(self) -> Awaitable[Health] | Health:
        """Return the health beyond the result of `apply`, which the core knows. Called every few seconds.

        Never called while `apply` runs.
        """
        return Ready(Health())

    def metrics(self) -> Iterable[Sample]:
        """Return the consumer's own metrics. Must not block. Called from any thread between `setup` and `teardown`."""
        return ()

    def inspect(self) -> Awaitable[Mapping[str, Any]] | Mapping[str, Any]:
        """Return details of the consumer's state, for a panel of the live page and for `/api/consumers/NAME`.

        The values are those of JSON, and no secrets: whoever may read the page reads them. The page shows an object as
        names and values, a list of objects with like names as a table, and any text as text.
        Called between `setup` and `teardown`. The core cancels a call that takes longer than 2 seconds.
        """
        return Ready({})

    def explain(
        self, backends: Sequence[Backend]
    ) -> Awaitable[Mapping[str, Sequence[str]]] | Mapping[str, Sequence[str]]:
        """Return the lines that stand for each of `backends` in what the consumer drives, by key (`SERVICE/ID`).

        For `discovery explain`, and for what the live page says that the consumer drives. A backend that the consumer
        leaves out has an empty sequence; `LeftOut` is one with the reason. `LastResort` has the lines of a backend
        that gets new work although it drains or has the weight 0. The default tells nothing of any. Called between
        `setup` and `teardown`, with backends that the consumer has applied, a few hundred at most. The core cancels a
        call that takes longer than 2 seconds.
        """
        return Ready({})

    def hand_over(self) -> Awaitable[tuple[socket.socket, ...]] | tuple[socket.socket, ...]:
        """Return the listening sockets for a successor in another process.

        Called at most once, after a `setup` that succeeded, if the successor has an instance of this name and plugin.
        No `apply` follows. The core owns the returned sockets, and calls `teardown` next, once the successor has them:
        a consumer whose connections outlive this process may accept until then. If there are sockets, the successor
        does not wait for `teardown`, which may therefore let connections end by themselves. If there are none, as by
        default, the successor waits until `teardown` has ended.
        """
        return Ready(())

    def end_drain(self) -> Awaitable[None] | None:
        """End the connections that `teardown` would let end by themselves, as a stop without a successor does.

        Called at most once, during the `teardown` that follows `hand_over`, if the daemon is told to stop. The default
        ends nothing: `teardown` goes on for at most `stop_seconds`.
        """
        return Ready(None)

    @classmethod
    def end_orphans(cls, context: Context) -> Awaitable[Mapping[int, str]] | Mapping[int, str]:
        """End the processes of this plugin that outlived a daemon in `context.run_dir`, gracefully.

        Returns a description of each process by its id. `discovery stop` calls this method, without an instance, for
        the directory of every instance whose daemon has ended, also for directories of other plugins. The default ends
        nothing, for plugins whose processes end with the daemon.
        """
        return Ready({})

    @property
    def stop_seconds(self) -> float:
        """Seconds that `teardown` may take before the core abandons the consumer; at least 10. From any thread."""
        return 10.0

    def teardown(self) -> Awaitable[None] | None:
        """Release everything. Called once, also after a failed `setup`."""
        return Ready(None)


AnyConsumer = Consumer[Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A `backend` that a provider has found, with its `checks`.

    The core registers the backend while every check passes, and always if there is no check. `origin` is the reason for
    the announced address, which `--dry-run` and `/api/providers` show: `Announced.origin`, or empty.
    """

    backend: Backend
    checks: tuple[Check, ...] = ()
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that a provider finds at a given time. The core withdraws every backend that is missing.

    `candidates` has the backends, each with a key of its own. `problems` has the faults of what was found, registered
    or not: the reason in one line, by a name that the user knows (`container web-1`). The core logs each problem once
    and shows the problem until an inventory lacks it. `skipped` has what the provider leaves out on purpose: the rule
    that excludes it, by the same kind of name. `--dry-run` and `/api/providers` show this, and the core logs it at
    level debug. `machine` names the machine that the provider looks at, in the default owner of the records: letters,
    digits and `._-`. Empty: the core names this machine. A provider in a container names the machine of the container,
    since the container's own name ends with the container. The name in the first inventory stays in force. No two
    living providers with the same instance name and run directory may name the same machine.
    """

    candidates: tuple[Candidate, ...] = ()
    problems: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    skipped: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    machine: str = ""


class Provider(ABC, Generic[C]):
    """Finds the backends of this machine; the core checks them and keeps them registered.

    Each method may be written with `def` or with `async def`; `discover` is a generator of either kind. Each instance
    has a thread and an event loop of its own, on which every method but `__init__` runs. A method that blocks delays
    the checks of this provider's candidates, and no other instance. A plain generator therefore runs on another thread,
    also while other methods run, and may block.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    """The type of the configuration; the core validates it before the instance is made."""

    def __init__(self, config: C, context: Context) -> None:
        """Keep `config`, which is validated, and `context`. No I/O here: `setup` is for that."""
        self.config = config
        self.context = context

    def setup(self) -> Awaitable[None] | None:
        """Acquire resources. After an exception the core calls `setup` again later; after CannotStartError never."""
        return Ready(None)

    @abstractmethod
    def discover(self) -> AsyncIterator[Inventory] | Iterator[Inventory]:
        """Yield an Inventory at once, and another whenever something may have changed. Never ends by itself.

        Each Inventory is complete. An Inventory that equals the Inventory before costs nothing. A provider that cannot
        find all backends raises an exception instead of an incomplete Inventory: the last Inventory stays valid, its
        backends are still checked, and the core calls `discover` again later.

        The core closes the generator when the provider is to stop. A plain generator cannot be interrupted: the core
        waits 2 s for the running step and then goes on; the generator is closed when the step ends.
        """

    def validate(self) -> Awaitable[Validation] | Validation:
        """Find faults that would keep `discover` from working. Changes nothing. See `Consumer.validate`."""
        return Ready(Validation())

    def reconfigure(self, config: C) -> Awaitable[bool] | bool:
        """Adopt the new configuration `config`. Return True if the provider has adopted `config`.

        `discover` has ended then, and is called again. After False, the default, the core restarts the instance. The
        last Inventory stays valid in both cases.
        """
        return Ready(False)

    def health(self) -> Awaitable[Health] | Health:
        """Return the health beyond errors of `discover`, which the core knows. Called every few seconds."""
        return Ready(Health())

    def metrics(self) -> Iterable[Sample]:
        """Return the provider's own metrics. Must not block. Called from any thread between `setup` and `teardown`."""
        return ()

    def inspect(self) -> Awaitable[Mapping[str, Any]] | Mapping[str, Any]:
        """Return details of the provider's state, for its panel and `/api/providers/NAME`. See `Consumer.inspect`."""
        return Ready({})

    def teardown(self) -> Awaitable[None] | None:
        """Release everything. Called once, also after a failed `setup`."""
        return Ready(None)


AnyProvider = Provider[Any]
