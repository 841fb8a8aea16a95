"""What a container asks for through labels and environment variables, by registrator's conventions. Pure.

The conventions: https://gliderlabs.github.io/registrator/latest/user/services/. Labels are
written by any user who may start a container, so they are not trusted: a container chooses its name and the path of its
check, never its address, nor the address or the command of its check.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from discovery import Backend, RecordError
from discovery.fields import Duration
from discovery.registry import MAX_LABEL_VALUE, MAX_LABELS, validate

_PREFIX = "SERVICE_"
_FOR_A_PORT = re.compile(r"([0-9]{1,5})_(.+)", re.DOTALL)
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_PATH = re.compile(r"/(?!/)[!-~]{0,1023}|/")
_INTERVAL = Duration(0.5, 3600)
_TIMEOUT = Duration(0.1, 60)
_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off", ""})

_REFUSED = {
    **dict.fromkeys(
        ("check_script", "check_cmd", "check_command", "check_args", "check_docker", "check_shell"),
        "a container cannot have a command run",
    ),
    **dict.fromkeys(
        ("ip", "host", "address", "port", "check_host", "check_address", "check_port", "check_url", "check_http_host"),
        "a container cannot choose an address",
    ),
    **dict.fromkeys(("check_ttl", "check_https", "check_grpc"), "there is no such check here"),
}
_CONSUL = frozenset({"check_initial_status", "check_deregister_after", "check_tls_skip_verify", "check_http_method"})


@dataclass(frozen=True, slots=True)
class CheckWish:
    """How a container would like to be checked: `path` by HTTP, or `tcp`; what is None is left to the configuration."""

    path: str | None = None
    tcp: bool = False
    interval: float | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a container asks for one of its ports. Names and ids are valid; whether they are allowed is not known here.

    `own_name` tells that the name was given for this very port. `unusable` is why the port cannot be registered at all:
    under another name than the one it asked for it would be found by the wrong people.
    """

    service: str | None = None
    own_name: bool = False
    id: str | None = None
    ignore: bool = False
    network: str | None = None
    check: CheckWish = CheckWish()
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()
    unusable: str | None = None


def read(labels: Mapping[str, str], env: Mapping[str, str], port: int) -> Wishes:
    """What is asked for `port`: labels win over environment variables, what names the port over what does not."""
    wishes = _Reader({**_entries(env, port, own=False), **_entries(labels, port, own=False)})
    for source in (env, labels):
        wishes.entries.update(_entries(source, port, own=True))
    return wishes.read()


def named_ports(labels: Mapping[str, str], env: Mapping[str, str]) -> frozenset[int]:
    """The ports that are given a name of their own, by SERVICE_<port>_NAME."""
    return frozenset(
        int(match[1])
        for source in (env, labels)
        for key, value in source.items()
        if value and key.startswith(_PREFIX) and (match := _FOR_A_PORT.fullmatch(key.removeprefix(_PREFIX)))
        if match[2].lower() == "name" and 1 <= int(match[1]) <= 65535
    )


def asks_for_a_name(labels: Mapping[str, str], env: Mapping[str, str]) -> bool:
    """Whether the container wants to be registered, by SERVICE_NAME or SERVICE_<port>_NAME."""
    general = _entries(env, 0, own=False) | _entries(labels, 0, own=False)
    return bool(general.get("name", ("", "", False))[1]) or bool(named_ports(labels, env))


def shown(value: str) -> str:
    """A value of others as it may be shown: in one line, quoted, and not without end."""
    return ascii(value if len(value) <= 60 else f"{value[:57]}...")


def _entries(source: Mapping[str, str], port: int, *, own: bool) -> dict[str, tuple[str, str, bool]]:
    """The entries for the port alone, or those for every port: name in lower case -> key, value, whether its own."""
    found = {}
    for key, value in source.items():
        if not key.startswith(_PREFIX):
            continue
        name = key.removeprefix(_PREFIX)
        match = _FOR_A_PORT.fullmatch(name)
        if (match is not None) != own or (match and match[1] != str(port)):
            continue
        name = (match[2] if match else name).lower()
        found[name] = (key, value, own)
    return found


class _Reader:
    """Takes entries apart, and keeps what is wrong with them."""

    def __init__(self, entries: dict[str, tuple[str, str, bool]]) -> None:
        self.entries = entries
        self._problems: list[str] = []

    def read(self) -> Wishes:
        unusable = None
        try:
            service, own = self._name()
        except ValueError as error:
            service, own, unusable = None, False, str(error)
        return Wishes(
            service,
            own,
            self._id(),
            bool(self._take("ignore")[1]),
            self._network(),
            self._check(),
            MappingProxyType(dict(self._labels())),
            tuple(self._problems),
            unusable,
        )

    def _take(self, name: str) -> tuple[str, str, bool]:
        return self.entries.pop(name, ("", "", False))

    def _name(self) -> tuple[str | None, bool]:
        key, value, own = self._take("name")
        if not value:
            return None, False
        if _wrong(Backend(value, "id", "host", 1)):
            raise ValueError(
                f"{key} is {shown(value)}: a service is 1-128 letters, digits, '_', '.' and '-', the first no sign"
            )
        return value, own

    def _id(self) -> str | None:
        key, value, _ = self._take("id")
        if value and _wrong(Backend("service", value, "host", 1)):
            self._problems.append(f"{key} is {shown(value)}: an id is 1-255 letters, digits and _.:@[]-; it is ignored")
            return None
        return value or None

    def _network(self) -> str | None:
        key, value, _ = self._take("network")
        if value and not _NETWORK.fullmatch(value):
            self._problems.append(f"{key} is {shown(value)}, which is no name of a network; it is ignored")
            return None
        return value or None

    def _check(self) -> CheckWish:
        key, path, _ = self._take("check_http")
        if path and (not _PATH.fullmatch(path) or "#" in path):
            self._problems.append(
                f"{key} is {shown(path)}, which is not a path such as /health: a container cannot choose another host"
            )
            path = ""
        return CheckWish(
            path or None,
            self._switch("check_tcp"),
            self._time("check_interval", _INTERVAL),
            self._time("check_timeout", _TIMEOUT),
        )

    def _switch(self, name: str) -> bool:
        key, value, _ = self._take(name)
        if value.lower() not in _TRUE | _FALSE:
            self._problems.append(f"{key} is {shown(value)}: write true, as the address is not yours to choose")
        return value.lower() in _TRUE

    def _time(self, name: str, bounds: Duration) -> float | None:
        key, value, _ = self._take(name)
        if not value:
            return None
        try:
            return bounds.parse(value)
        except ValueError as error:
            self._problems.append(f"{key}: {error}; it is ignored")
            return None

    def _labels(self) -> Iterator[tuple[str, str]]:
        count = 0
        for name, (key, value, _) in sorted(self.entries.items()):
            if name in _CONSUL or not value:
                continue
            if name in _REFUSED:
                self._problems.append(f"{key} is refused: {_REFUSED[name]}")
            elif _wrong(Backend("service", "id", "host", 1, labels={name: value})):
                self._problems.append(
                    f"{shown(key)} cannot be a label: its name is 1-63 letters, digits and _.-, its value printable and"
                    f" at most {MAX_LABEL_VALUE} bytes"
                )
            elif count == MAX_LABELS:
                self._problems.append(f"there are more than {MAX_LABELS} labels; those after {shown(key)} are ignored")
                return
            else:
                count += 1
                yield name, value


def _wrong(backend: Backend) -> bool:
    try:
        validate(backend)
    except RecordError:
        return True
    return False
