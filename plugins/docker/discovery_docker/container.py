"""A container, parsed from the JSON of `docker inspect`. Pure."""

import ipaddress
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from discovery_docker.conventions import ServiceVariables

Health = Literal["starting", "healthy", "unhealthy"]
Port = tuple[int, str]
"""A container port with its protocol: (80, "tcp")."""

_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL})
_IN_CONTAINER = "container:"
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")


class Binding(NamedTuple):
    """An address and a port of the host, at which a container port is published.

    `host_ip` is a valid IPv4 or IPv6 address, and may be unspecified (0.0.0.0 or ::).
    """

    host_ip: str
    host_port: int


class Addresses(NamedTuple):
    """The addresses of a container on a Docker network."""

    ipv4: str | None
    ipv6: str | None


@dataclass(frozen=True, slots=True)
class Container:
    """The state of a container at the time of its inspection.

    `running` is False while the container waits to be restarted. A `paused` container runs and serves nothing. `image`
    is the reference that the container was started with; if that is the id of the image, `image_names` has the image's
    tags and digests. `created_at` and `started_at` are in nanoseconds since the epoch, as in Docker's events;
    `started_at` is new after each restart, and 0 for a container that never started.
    `ports` are the published ports, IPv4 bindings before IPv6
    bindings; the two families may have different host ports. `exposed` are the declared ports. `network_mode` is
    "host", "none", "container:ID" or the name of a network. `is_infra` is True for the container in which Podman holds
    the network of a pod. `stop_signal` is a signal number. `stop_timeout` is in seconds; None stands for Docker's
    default. `env` may hold secrets, and is left out of the repr. `variables` are the SERVICE_* labels and environment
    variables, read once from `labels` and `env`.
    """

    id: str
    name: str
    image: str = ""
    image_id: str = ""
    image_names: tuple[str, ...] = ()
    running: bool = False
    paused: bool = False
    health: Health | None = None
    created_at: int = 0
    started_at: int = 0
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    env: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)
    ports: Mapping[Port, tuple[Binding, ...]] = field(default_factory=lambda: _NOTHING)
    exposed: tuple[Port, ...] = ()
    networks: Mapping[str, Addresses] = field(default_factory=lambda: _NOTHING)
    network_mode: str = "default"
    is_infra: bool = False
    stop_signal: int = signal.SIGTERM
    stop_timeout: int | None = None
    variables: ServiceVariables = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the labels and the environment variables."""
        object.__setattr__(self, "variables", ServiceVariables.read(self.labels, self.env))

    @property
    def is_image_named_by_id(self) -> bool:
        """True if the container was started with the image's id, or the beginning of the id, in place of a name."""
        digest = self.image_id.removeprefix("sha256:")
        return bool(digest) and (self.image == self.image_id or (self.image != "" and digest.startswith(self.image)))

    @property
    def images(self) -> tuple[str, ...]:
        """The names of the image: the name that the container was started with, or else the image's own names."""
        return self.image_names or (self.image,)

    @property
    def shares_network(self) -> bool:
        """True if the container uses another container's network, as in a pod."""
        return self.network_mode.startswith(_IN_CONTAINER)

    @property
    def network_owner(self) -> str:
        """The id of the container whose network this one uses; empty if it has one of its own."""
        return self.network_mode.removeprefix(_IN_CONTAINER) if self.shares_network else ""

    def is_stop_signal(self, number: int) -> bool:
        """Return True if the signal `number` begins a stop of the container."""
        return number == self.stop_signal or number in _STOP_SIGNALS


def parse(document: object) -> Container:
    """Return the container of a `docker inspect` document. Never raises: a malformed value counts as absent."""
    root = _map(document)
    state, config, host, network = (_map(root.get(key)) for key in ("State", "Config", "HostConfig", "NetworkSettings"))
    id_ = _text(root.get("Id"))
    timeout = config.get("StopTimeout")
    return Container(
        id=id_,
        name=_text(root.get("Name")).removeprefix("/") or id_[:12],
        image=_text(config.get("Image")),
        image_id=_text(root.get("Image")),
        running=state.get("Running") is True and state.get("Restarting") is not True and state.get("Dead") is not True,
        paused=state.get("Paused") is True,
        health=_health(_map(state.get("Health")).get("Status")),
        created_at=parse_timestamp(root.get("Created")),
        started_at=parse_timestamp(state.get("StartedAt")),
        labels=_frozen({key: text for key, text in _map(config.get("Labels")).items() if isinstance(text, str)}),
        env=_frozen(dict(_variable(entry) for entry in _list(config.get("Env")) if isinstance(entry, str))),
        ports=_frozen(_published(_map(network.get("Ports")))),
        exposed=_exposed(config),
        networks=_frozen({name: _addresses(_map(entry)) for name, entry in _map(network.get("Networks")).items()}),
        network_mode=_text(host.get("NetworkMode")) or "default",
        stop_signal=signal_number(_text(config.get("StopSignal"))) or signal.SIGTERM,
        stop_timeout=timeout if isinstance(timeout, int) and timeout >= 0 else None,
    )


def parse_image_names(document: object) -> tuple[str, ...]:
    """Return the tags and digests of a `docker image inspect` document, sorted. Never raises."""
    root = _map(document)
    names = (*_list(root.get("RepoTags")), *_list(root.get("RepoDigests")))
    return tuple(sorted({name for name in names if isinstance(name, str) and not name.startswith("<none>")}))


def parse_image_exposed(document: object) -> tuple[Port, ...]:
    """Return the ports that the image of a `docker image inspect` document declares, sorted. Never raises."""
    return _exposed(_map(_map(document).get("Config")))


def signal_number(name: str) -> int | None:
    """Return the number of a signal in Docker's notation (15, TERM, SIGTERM, RTMIN+3), or None for any other text."""
    name = name.strip().upper().removeprefix("SIG")
    if name.isascii() and name.isdigit():
        return int(name[:4])
    if found := re.fullmatch(r"RTM(IN\+|AX-)(\d{1,2})", name, re.ASCII):
        return signal.SIGRTMIN + int(found[2]) if found[1] == "IN+" else signal.SIGRTMAX - int(found[2])
    return next((known for known in signal.Signals if known.name == f"SIG{name}"), None)


def parse_timestamp(text: object) -> int:
    """Return an RFC 3339 timestamp in nanoseconds since the epoch; 0 for other values and for earlier years."""
    found = _TIMESTAMP.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return 0
    try:
        seconds = (datetime.fromisoformat(found[1] + found[3]) - datetime.fromtimestamp(0, UTC)).total_seconds()
    except (ValueError, OverflowError):
        return 0
    return max(0, int(seconds) * 10**9 + int((found[2] or "").ljust(9, "0")))


def _exposed(config: Mapping[str, object]) -> tuple[Port, ...]:
    return tuple(sorted(port for key in _map(config.get("ExposedPorts")) if (port := _port(key))))


def _published(ports: Mapping[str, object]) -> dict[Port, tuple[Binding, ...]]:
    # Docker's order of bindings varies: sort them, so that an unchanged container compares equal.
    found: dict[Port, tuple[Binding, ...]] = {}
    for key, entries in ports.items():
        bindings = {binding for entry in _list(entries) if (binding := _binding(_map(entry)))}
        if bindings and (port := _port(key)):
            found[port] = tuple(sorted(bindings, key=lambda binding: (":" in binding.host_ip, binding)))
    return found


def _binding(entry: Mapping[str, object]) -> Binding | None:
    address = _address(entry.get("HostIp")) if entry.get("HostIp") else "0.0.0.0"  # noqa: S104 - an empty HostIp in Docker
    number = _number(_text(entry.get("HostPort")))
    return Binding(address, number) if address and number else None


def _addresses(network: Mapping[str, object]) -> Addresses:
    return Addresses(_address(network.get("IPAddress")), _address(network.get("GlobalIPv6Address")))


def _address(text: object) -> str | None:
    try:
        return str(ipaddress.ip_address(_text(text)))
    except ValueError:
        return None


def _port(text: str) -> Port | None:
    number, _, protocol = text.partition("/")
    port = _number(number)
    return (port, protocol or "tcp") if port else None


def _number(text: str) -> int | None:
    # Limit the digits to those of a port: int() raises an exception of its own for thousands of digits.
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return number if 0 < number < 65536 else None


def _health(text: object) -> Health | None:
    return text if text in ("starting", "healthy", "unhealthy") else None


def _variable(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else _NOTHING


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _frozen(values: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(values)
