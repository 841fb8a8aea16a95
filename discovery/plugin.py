"""What plugin authors implement and are given: consumers and providers, their configuration, context and health."""

import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from structlog.typing import FilteringBoundLogger

from discovery.checks import Check
from discovery.model import Addresses, Backend, Changes, Snapshot


class PluginConfig(BaseModel):
    """Base of a plugin's configuration: frozen, an unknown key is an error, and a docstring describes its field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the fields by their docstrings.

        Here, and not by pydantic's `use_attribute_docstrings`, which reads the sources whenever a class is made.
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


@dataclass(frozen=True, slots=True)
class Update:
    """The whole desired state, and what changed since this consumer last succeeded (`previous`).

    `addresses` are those of the backends that are registered by host name, as the core has looked them up. When one
    changes there is another `apply`, of the same snapshot and without `changes`. None: nothing was looked up.
    """

    snapshot: Snapshot
    previous: Snapshot | None
    changes: Changes
    addresses: Addresses | None = None

    def addresses_of(self, backend: Backend) -> tuple[str, ...]:
        """The IP addresses of a backend of the snapshot, in the order in which to try them.

        Those that take connections come first. Empty: its host name has no address (yet). Where nothing was looked up,
        `Backend.host` as it is.
        """
        if self.addresses is None or not backend.is_named:
            return (backend.host,)
        return self.addresses.get((backend.host, backend.port), ())


@dataclass(frozen=True, slots=True)
class Health:
    """What a plugin says of itself; `detail` is one line for a person."""

    ok: bool = True
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Validation:
    """What a plugin finds out about its configuration without running: each entry is one line for a person.

    `faults` keep it from working. `unchecked` is what cannot be told on this machine, with the reason.
    """

    faults: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure of a consumer's, as Prometheus knows them; `name` without prefix, unit last: `connect_seconds`.

    It is shown as `discovery_PLUGIN_NAME`, a counter with `_total` after it, with the label `consumer` added: the
    instance's name. `name` and the names of labels are ASCII letters, digits and underscores.
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    kind: Literal["counter", "gauge"] = "counter"
    help: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What the core gives to one instance of a plugin.

    `run_dir` belongs to this instance alone: it exists and is locked from before `setup` until after `teardown`
    (in a dry run neither; then nothing may be written there). `request_apply` asks for another `apply` of the latest
    snapshot, from any thread: for a consumer whose own inputs, such as a template or a certificate, have changed.
    `inherited` are listening sockets that a predecessor or systemd handed over: `setup` takes those whose address
    (`getsockname`) it wants by `socket.socket(fileno=each.detach())`, and leaves the others, which the core closes
    after it. A setup that fails loses nothing: the next is offered them again. Once `hand_over` has returned sockets,
    a successor may use `run_dir` already.
    """

    name: str
    run_dir: Path
    log: FilteringBoundLogger
    request_apply: Callable[[], None] = lambda: None
    inherited: tuple[socket.socket, ...] = ()


class Consumer(ABC, Generic[C]):
    """Makes something follow the registry.

    Each instance has a thread and an event loop of its own, on which every method but `__init__` runs, one at a time
    (but tasks that the consumer starts go on meanwhile). It may block: nobody waits for it.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    """The type of the configuration; the core validates it before the instance is made."""

    def __init__(self, config: C, context: Context) -> None:
        """Keep the arguments. No I/O here: `setup` is for that."""
        self.config = config
        self.context = context

    @property
    def resident(self) -> bool:
        """Whether what it drives ends with the daemon, which makes `run --once` a usage error."""
        return True

    async def setup(self) -> None:
        """Acquire what is needed. Raise to be tried again later, or `CannotStartError` never to be."""

    @abstractmethod
    async def apply(self, update: Update) -> None:
        """Make reality equal `update.snapshot`. Idempotent. Raise if it is not so: it will be called again."""

    async def preview(self, update: Update) -> str:
        """What `apply` would change, as a unified diff, empty if nothing. Writes nothing; called without `setup`."""
        raise NotImplementedError(f"{type(self).__name__} has no preview")

    async def validate(self, update: Update) -> Validation:
        """What would keep `apply` from working, as far as it can be told from here. Touches nothing.

        Called without `setup`, by `config check` and `run --dry-run`: with an empty snapshot, and with the current one
        if the registry can be read. A DiscoveryError that it raises is a fault. By default nothing is found.
        """
        return Validation()

    async def reconfigure(self, config: C) -> bool:
        """Take a new configuration in place, before the next `apply`. False (the default): restart me instead."""
        return False

    async def health(self) -> Health:
        """How it is, beyond what the core knows from `apply`. Called every few seconds between applies."""
        return Health()

    def metrics(self) -> Iterable[Sample]:
        """Its own figures. Called between `setup` and `teardown` from any thread, beside all else; returns at once."""
        return ()

    async def inspect(self) -> Mapping[str, Any]:
        """What it can tell of itself besides, as JSON can hold it: shown by the admin endpoint when asked for.

        Called between `setup` and `teardown`; cancelled if it takes longer than a few seconds.
        """
        return {}

    async def hand_over(self) -> tuple[socket.socket, ...]:
        """Let go, for a successor in another process: stop accepting, and return the listening sockets.

        Called once, after a `setup` that succeeded and instead of further applies, if the successor has an instance
        of this name and plugin. The sockets are the core's from then on. `teardown` follows at once: it may let what
        is under way come to its end, as the successor does not wait for it. But without sockets, as by default, the
        successor does wait until `teardown` has ended.
        """
        return ()

    @classmethod
    async def end_orphans(cls, context: Context) -> Mapping[int, str]:
        """End, in order, the processes that outlived a daemon in `context.run_dir`; what each was, by process id.

        Called by `discovery stop`, without an instance, for each directory of an instance whose daemon has gone: it may
        be another plugin's. By default there are none: a plugin's processes end with the daemon.
        """
        return {}

    @property
    def stop_seconds(self) -> float:
        """How long `teardown` may take before this consumer is abandoned; no less than 10 s. From any thread."""
        return 10.0

    async def teardown(self) -> None:
        """Release everything. Called once, also after a failed `setup`."""


AnyConsumer = Consumer[Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend that a provider has found, registered while every one of `checks` passes; without any, always."""

    backend: Backend
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that a provider finds at one moment: what is not in it is withdrawn.

    `problems` is what is wrong with what was found, registered nevertheless or not, each named as its user knows it
    (`container web-1`), with the reason in a line. The core logs each once, and shows them for as long as they stand.
    `skipped` is what was seen and left out on purpose, named in the same way, with the rule that did so: shown by
    `--dry-run` and `/api/providers`, and logged at level debug.
    """

    candidates: tuple[Candidate, ...] = ()
    problems: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    skipped: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Provider(ABC, Generic[C]):
    """Finds the backends of this machine; the core checks them and keeps them registered.

    Each instance has a thread and an event loop of its own, on which every method but `__init__` runs. What blocks
    there delays the checks of its own candidates, and nobody else.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    """The type of the configuration; the core validates it before the instance is made."""

    def __init__(self, config: C, context: Context) -> None:
        """Keep the arguments. No I/O here: `setup` is for that."""
        self.config = config
        self.context = context

    async def setup(self) -> None:
        """Acquire what is needed. Raise to be tried again later, or `CannotStartError` never to be."""

    @abstractmethod
    def discover(self) -> AsyncGenerator[Inventory, None]:
        """Yield what there is: at once, and again whenever it may have changed. Never ends by itself.

        Each Inventory is complete; an equal one costs nothing. Raise when nothing can be seen (never yield less for
        it): what was found last stands, is still checked, and `discover` is called again after a while.
        """

    async def validate(self) -> Validation:
        """What would keep `discover` from working, as far as it can be told from here. As `Consumer.validate`."""
        return Validation()

    async def health(self) -> Health:
        """How it is, beyond what the core knows from `discover`. Called every few seconds."""
        return Health()

    async def teardown(self) -> None:
        """Release everything. Called once, also after a failed `setup`."""


AnyProvider = Provider[Any]
