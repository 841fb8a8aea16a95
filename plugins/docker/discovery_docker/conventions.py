"""The registration that a container requests through labels and environment variables. Pure.

The conventions are registrator's: https://gliderlabs.github.io/registrator/latest/user/services/. Besides, the labels
`discovery.X` are labels of the record, such as `discovery.host`, by which HAProxy's label routes go. Any user who may
start a container writes its labels, so labels are not trusted: a container chooses its service name and the path of its
check, but neither its address, nor the address or the command of its check.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from discovery import Backend, RecordError
from discovery.fields import Duration
from discovery.registry import MAX_LABEL_VALUE, MAX_LABELS, validate

_PREFIX = "SERVICE_"
_PORT_PREFIX = re.compile(r"([0-9]{1,5})_(.+)", re.DOTALL)
_PASSED_ON = re.compile(r"discovery\.(?:([0-9]{1,5})\.)?(.+)", re.DOTALL)
"""The container labels that become labels of the record: `discovery.X`, and for one port `discovery.<port>.X`."""
_ROUTE = "discovery.host"
"""The label that asks for a route, which a single service can have."""
_SECRET = re.compile(
    r"(?:.*[_.-])?(?:passw(?:or)?d|passphrase|secret|token|credential|(?:api|access|private)_?key)s?(?:[_.-].*)?",
    re.DOTALL,
)
"""The names of variables, in lower case, that are probably a secret of the program in the container."""
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_PATH = re.compile(r"/(?!/)[!-~]{0,1023}|/")
_INTERVAL = Duration(0.5, 3600)
"""The interval of a check, in seconds: a shorter interval would let a container load this machine."""
_TIMEOUT = Duration(0.1, 60)
"""The timeout of a check, in seconds: a check that takes a minute has failed."""
_LONGEST_QUOTED = 60
"""Characters of an untrusted value in a message, so that the message stays one line on a terminal."""
_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off", ""})

_REFUSED = {
    **dict.fromkeys(
        ("check_script", "check_cmd", "check_command", "check_args", "check_docker", "check_shell"),
        "a container cannot choose a command to run",
    ),
    **dict.fromkeys(
        ("ip", "host", "address", "port", "check_host", "check_address", "check_port", "check_url", "check_http_host"),
        "a container cannot choose an address",
    ),
    **dict.fromkeys(("check_ttl", "check_https", "check_grpc"), "this type of check does not exist here"),
}
_IGNORED = frozenset({"check_initial_status", "check_deregister_after", "check_tls_skip_verify", "check_http_method"})
"""Options of Consul's checks that have no meaning here and no effect on other machines: dropped without a message."""


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """The check that a container requests: HTTP with a `path`, or `tcp`.

    The configuration decides where a field is None. `interval` and `timeout` are seconds.
    """

    path: str | None = None
    tcp: bool = False
    interval: float | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class PortRequest:
    """The registration that a container requests for a port.

    `service` and `id` are valid names; the configuration decides whether the container may use them. `named_for_port`
    is True if the name was given for this port alone. `problems` are refused values, a line each. `refusal` is the
    reason why the port must not be registered: its requested name is not valid, and clients of another service would
    find the container under any other name.
    """

    service: str | None = None
    named_for_port: bool = False
    id: str | None = None
    ignore: bool = False
    network: str | None = None
    check: CheckRequest = CheckRequest()
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()
    refusal: str | None = None


class _Entry(NamedTuple):
    """A label or variable: the key as written, the value, and True if the key names a port.

    `is_variable` is True for an environment variable.
    """

    key: str = ""
    value: str = ""
    for_port: bool = False
    is_variable: bool = False


_Entries = Mapping[str, _Entry]
"""Entries by their name: in lower case without SERVICE_ and the port, or `discovery.X`, also without the port."""


@dataclass(frozen=True, slots=True)
class ServiceVariables:
    """The SERVICE_* labels and environment variables of a container, and its labels `discovery.*`, grouped by port.

    `named_ports` are the ports with a name of their own, by SERVICE_<port>_NAME.
    """

    general: _Entries = field(default_factory=lambda: MappingProxyType({}))
    by_port: Mapping[int, _Entries] = field(default_factory=lambda: MappingProxyType({}))
    named_ports: frozenset[int] = frozenset()

    @classmethod
    def read(cls, labels: Mapping[str, str], env: Mapping[str, str]) -> "ServiceVariables":
        """Return the entries of both sources. A label overrides a variable of the same name.

        A label `discovery.X` overrides `SERVICE_DISCOVERY.X`.
        """
        general: dict[str, _Entry] = {}
        by_port: dict[int, dict[str, _Entry]] = {}
        named = set()
        for source in (env, labels):
            for key, value in source.items():
                if not key.startswith(_PREFIX):
                    continue
                name = key.removeprefix(_PREFIX)
                match = _PORT_PREFIX.fullmatch(name)
                if match is None:
                    general[name.lower()] = _Entry(key, value, is_variable=source is env)
                    continue
                port, name = int(match[1]), match[2].lower()
                if value and name == "name" and 1 <= port <= 65535:
                    named.add(port)
                if match[1] == str(port):
                    by_port.setdefault(port, {})[name] = _Entry(key, value, True, source is env)
        for key, value in labels.items():
            if (match := _PASSED_ON.fullmatch(key)) is not None:
                entries = general if match[1] is None else by_port.setdefault(int(match[1]), {})
                entries[f"discovery.{match[2]}"] = _Entry(key, value, for_port=match[1] is not None)
        return cls(MappingProxyType(general), MappingProxyType(by_port), frozenset(named))

    @property
    def requests_name(self) -> bool:
        """True if the container requests a name, by SERVICE_NAME or SERVICE_<port>_NAME."""
        return bool(self.general.get("name", _Entry()).value or self.named_ports)

    @property
    def ignore(self) -> bool:
        """True if the container requests that none of its ports is registered."""
        return bool(self.general.get("ignore", _Entry()).value)

    @property
    def network(self) -> str | None:
        """The Docker network that the container requests for all of its ports, if its name is valid."""
        value = self.general.get("network", _Entry()).value
        return value if value and _NETWORK.fullmatch(value) else None

    @property
    def routes_every_port(self) -> bool:
        """True if the container requests the same route for all of its ports."""
        return bool(self.general.get(_ROUTE, _Entry()).value)

    def without_common_route(self) -> "ServiceVariables":
        """Return the entries without a route for all ports."""
        general = {name: entry for name, entry in self.general.items() if name != _ROUTE}
        return replace(self, general=MappingProxyType(general))

    def request(self, port: int) -> PortRequest:
        """Return the request for a port. An entry that names the port overrides an entry for all ports."""
        return _RequestParser({**self.general, **self.by_port.get(port, {})}).parse()


def quoted(value: str) -> str:
    """Return an untrusted value for a message: quoted, in one line, shortened."""
    return ascii(value if len(value) <= _LONGEST_QUOTED else f"{value[: _LONGEST_QUOTED - 3]}...")


class _RequestParser:
    """Parses the entries for a port, and collects a problem for each refused value."""

    def __init__(self, entries: dict[str, _Entry]) -> None:
        self._entries = entries
        self._problems: list[str] = []

    def parse(self) -> PortRequest:
        refusal = None
        try:
            service, named_for_port = self._service()
        except ValueError as error:
            service, named_for_port, refusal = None, False, str(error)
        return PortRequest(
            service=service,
            named_for_port=named_for_port,
            id=self._id(),
            ignore=bool(self._take("ignore").value),
            network=self._network(),
            check=self._check(),
            labels=MappingProxyType(dict(self._labels())),
            problems=tuple(self._problems),
            refusal=refusal,
        )

    def _take(self, name: str) -> _Entry:
        return self._entries.pop(name, _Entry())

    def _service(self) -> tuple[str | None, bool]:
        key, value, for_port, _ = self._take("name")
        if not value:
            return None, False
        if not _is_valid(Backend(value, "id", "host", 1)):
            raise ValueError(
                f"{key} is {quoted(value)}: a service name has 1-128 letters, digits, '_', '.' and '-',"
                " and must start with a letter, a digit or '_'"
            )
        return value, for_port

    def _id(self) -> str | None:
        key, value, _, _ = self._take("id")
        if value and not _is_valid(Backend("service", value, "host", 1)):
            self._problems.append(
                f"{key} is {quoted(value)}: an id has 1-255 letters, digits and _.:@[]-; {key} is ignored"
            )
            return None
        return value or None

    def _network(self) -> str | None:
        key, value, _, _ = self._take("network")
        if value and not _NETWORK.fullmatch(value):
            self._problems.append(f"{key} is {quoted(value)}, not the name of a Docker network; {key} is ignored")
            return None
        return value or None

    def _check(self) -> CheckRequest:
        key, path, _, _ = self._take("check_http")
        if path and (not _PATH.fullmatch(path) or "#" in path):
            self._problems.append(
                f"{key} is {quoted(path)}, not a path such as /health: a container cannot choose another host"
            )
            path = ""
        return CheckRequest(
            path or None,
            self._switch("check_tcp"),
            self._time("check_interval", _INTERVAL),
            self._time("check_timeout", _TIMEOUT),
        )

    def _switch(self, name: str) -> bool:
        key, value, _, _ = self._take(name)
        if value.lower() not in _TRUE | _FALSE:
            self._problems.append(f"{key} is {quoted(value)}: write true, since a container cannot choose an address")
        return value.lower() in _TRUE

    def _time(self, name: str, bounds: Duration) -> float | None:
        key, value, _, _ = self._take(name)
        if not value:
            return None
        try:
            return bounds.parse(value)
        except ValueError as error:
            self._problems.append(f"{key}: {error}; {key} is ignored")
            return None

    def _labels(self) -> Iterator[tuple[str, str]]:
        count = 0
        for name, (key, value, _, is_variable) in sorted(self._entries.items()):
            if name in _IGNORED or not value:
                continue
            if name in _REFUSED:
                self._problems.append(f"{key} is refused: {_REFUSED[name]}")
            elif is_variable and _SECRET.fullmatch(name):
                self._problems.append(
                    f"{quoted(key)} has the name of a secret, and is not published: if it is no secret, make it a"
                    " label of the container"
                )
            elif not _is_valid(Backend("service", "id", "host", 1, labels={name: value})):
                self._problems.append(
                    f"{quoted(key)} cannot be a label: the name of a label has 1-63 letters, digits and _.-, and its"
                    f" value is printable and has at most {MAX_LABEL_VALUE} bytes"
                )
            elif count == MAX_LABELS:
                self._problems.append(
                    f"there are more than {MAX_LABELS} labels; the labels after {quoted(key)} are ignored"
                )
                return
            else:
                count += 1
                yield name, value


def _is_valid(backend: Backend) -> bool:
    try:
        validate(backend)
    except RecordError:
        return False
    return True
