"""The states of a registry to which the contract brings a consumer: pure, made of the author's snapshots."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType

from discovery.model import Addresses, Backend, Rejected, Snapshot, State
from discovery.testing.builders import backend

NAME = "db.contract.example"
"""A host name that nobody has registered: `example` is reserved."""
MARK = "contract-mark"
"""The name of a file that a label would create if a shell interpreted the label."""
PLAIN_LABEL = "plainvalue"
HOSTILE_LABELS: Mapping[str, str] = {
    "quote": "\"'`",
    "json": '", "weight": 0, "injected": "',
    "braces": "{} {0} {label} {{ 7*7 }} {% raw %} ${HOME} $HOME $(touch " + MARK + ") `touch " + MARK + "`",
    "percent": "%s %d %(name)s %n %%",
    "comment": "# ; // <!-- --> /* */ -- !",
    "markup": "<a href='x'>&amp;&</a>]]>",
    "separators": "a,b;c|d:e=f\\n\\g\\",
    "option": "--help",
    "path": "../../../" + MARK,
    "spaces": "  two  spaces  ",
    "empty": "",
    "letters": "ключ 鍵 ß 🔑",
    "long": "x" * 1024,
}
"""Labels that are valid, and that a consumer must not take for syntax."""
ODD_IDS = ("_x", ":x:", "[2001:db8::1]:80", "a@b", "A", "a", "x" * 120, "0", "a..b", "con", "10.0.0.1:80")
"""Ids that are valid, and unusual."""
MANY = 1000
"""Backends of one service; installations of that size exist."""
ALIKE = ("-", ".", "_")
"""Characters of names, in their order, that programs replace in names of their own: `a-1`, `a.1` and `a_1` differ."""
ALIKE_IDS = {
    "ids that differ in case": ("n1X", "n1x"),
    "ids that differ at their end": ("n" * 200 + "1", "n" * 200 + "2"),
}
"""Ids that are one id for a program that ignores case, or that cuts long names off."""
REJECTED = (
    Rejected("web/bad", "the value is not HOST:PORT and not a JSON object"),
    Rejected("other/odd", "the label is not text", "labels"),
)
"""Records that the core has refused."""
POPULATION = 12
"""Backends whose order is compared: 12 have half a milliard orders, so no order comes out twice by chance."""


class AskedLabels(dict[str, str]):
    """Labels that note, in `asked`, the names that a consumer looks for and does not find."""

    def __init__(self, labels: Mapping[str, str], asked: set[str]) -> None:
        """Copy `labels`. Names go into `asked`."""
        super().__init__(labels)
        self.asked = asked

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
        """See `dict.get`."""
        self._note(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        """See `dict.__contains__`."""
        self._note(name)
        return super().__contains__(name)

    def __missing__(self, name: str) -> str:
        """Note the name, and raise KeyError as `dict` does."""
        self._note(name)
        raise KeyError(name)

    def _note(self, name: object) -> None:
        if isinstance(name, str) and not super().__contains__(name):
            self.asked.add(name)


@dataclass(frozen=True)
class Named:
    """A state of the registry: `snapshot`, and the `addresses` of host names, None if nothing was looked up."""

    snapshot: Snapshot
    addresses: Addresses | None = None


def states(snapshots: tuple[Snapshot, Snapshot]) -> dict[str, Named]:
    """Return the states by name, the most telling first. The backends are those of `snapshots`, changed.

    The service is one of `snapshots`, since a consumer may be configured for that service alone.
    """
    given = [*snapshots[0].backends(), *snapshots[1].backends()] or [backend()]
    first = given[0]
    base = replace(first, state=State.ACTIVE, weight=1)
    other = replace(base, id=f"{base.id}-2", port=_port(base.port, 10))
    elsewhere = next((each.service for each in given if each.service != base.service), "other")
    twin = replace(base, service=elsewhere, port=_port(base.port, 20))
    plain = {name: f"{PLAIN_LABEL}{number:02}x" for number, name in enumerate(HOSTILE_LABELS)}
    named = replace(base, id="named", host=NAME)
    at: dict[str, Addresses] = {
        "a": {(NAME, base.port): ("127.0.0.7",)},
        "b": {(NAME, base.port): ("127.0.0.8", "2001:db8::8")},
    }
    made: dict[str, Named] = {}

    def add(
        name: str,
        *backends: Backend,
        addresses: Addresses | None = None,
        revision: int | None = None,
        rejected: tuple[Rejected, ...] = (),
    ) -> None:
        snapshot = Snapshot.of(len(made) + 10 if revision is None else revision, backends, rejected, len(rejected))
        made[name] = Named(snapshot, addresses)

    add("one", base)
    add("port", replace(base, port=_port(base.port, 1)))
    add("host", replace(base, host="127.0.0.9"))
    add("pair", base, other)
    add("draining", base, replace(other, state=State.DRAINING))
    add("rejected", base, other, rejected=REJECTED)
    add("empty")
    add("labels", replace(base, labels=plain), other)
    add("hostile", replace(base, labels=HOSTILE_LABELS), other)
    add("ipv6 a", replace(base, host="2001:db8::a1"))
    add("ipv6 b", replace(base, host="2001:db8::b2"))
    add("name a", named, addresses=at["a"])
    add("name b", named, addresses=at["b"])
    add("name without address", named, base, addresses={})
    add("name not looked up", named, base)
    add("weight 5", base, replace(other, weight=5))
    add("weight 0", base, replace(other, weight=0))
    add("all without weight", replace(base, weight=0), replace(other, weight=0))
    add("all draining", replace(base, state=State.DRAINING), replace(other, state=State.DRAINING))
    add("twins", base, twin)
    add("twins, one moved", replace(base, port=_port(base.port, 2)), twin)
    add("twins, other moved", base, replace(twin, port=_port(base.port, 22)))
    add("twin", twin)
    add("twin moved", replace(twin, port=_port(base.port, 22)))
    shared = replace(base, service=elsewhere)
    add("shared address", base, shared)
    add("elsewhere", shared)
    add_alike(add, "ids", [replace(base, id=f"n{sign}1") for sign in ALIKE])
    add_alike(add, "services", [replace(base, service=f"{base.service[:100]}{sign}x") for sign in ALIKE])
    for what, pair in ALIKE_IDS.items():
        add_alike(add, what, [replace(base, id=each) for each in pair])
    add("name b again", named, addresses=at["b"])
    add("one again", base, revision=made["one"].snapshot.revision)
    add("revision", base, revision=987_654_321)
    for name, prefix, network in (("order", "a", "10.11.1"), ("order of others", "b", "10.12.2")):
        ids = [f"{prefix}{number:02}x" for number in range(POPULATION)]
        add(name, *(replace(base, id=id_, host=f"{network}.{number + 10}") for number, id_ in enumerate(ids)))
    add("odd ids", *(replace(base, id=id_, port=_port(base.port, number)) for number, id_ in enumerate(ODD_IDS)))
    add(
        "limits", replace(base, port=1, weight=256), replace(other, port=65535, labels={f"l{n}": "" for n in range(64)})
    )
    hosts = (f"10.{20 + number // 250}.{number % 250}.9" for number in range(MANY))
    many = [replace(base, id=f"n{number:04}", host=host) for number, host in enumerate(hosts)]
    add("many", *many)
    add("many, last moved", *many[:-1], replace(many[-1], host="10.19.0.9"))
    return made


def add_alike(add: Callable[..., None], what: str, backends: list[Backend]) -> None:
    """Add states of `backends`, whose names differ by little: all at ports of their own, and one moved."""
    backends = [replace(each, port=_port(each.port, number)) for number, each in enumerate(backends)]
    add(f"alike {what}", *backends)
    for which, at in (("first", 0), ("last", -1)):
        moved = [*backends]
        moved[at] = replace(moved[at], port=_port(moved[at].port, 40))
        add(f"alike {what}, {which} moved", *moved)


def copy_of(state: Snapshot) -> Snapshot:
    """Return an equal snapshot that shares nothing that can be changed with `state`."""
    backends = chain.from_iterable(service.backends for service in state.services.values())
    return Snapshot.of(
        state.revision,
        [replace(each, labels=dict(each.labels)) for each in backends],
        state.rejected,
        state.more_rejected,
    )


def _port(port: int, more: int) -> int:
    """Return another valid port for each `more`."""
    return (port + more) % 65535 or 1


def with_labels(state: Named, names: set[str]) -> dict[str, Named]:
    """Return `state` with each hostile text as the value of the labels `names`, by a name of the state."""
    made = {}
    for number, (kind, value) in enumerate(HOSTILE_LABELS.items()):
        backends = [*state.snapshot.backends()]
        labels = {**backends[0].labels, **dict.fromkeys(sorted(names)[:40], value)}
        backends[0] = replace(backends[0], labels=labels)
        made[f"label {min(names)!r} with {kind}"] = Named(
            Snapshot.of(state.snapshot.revision + 5000 + number, backends), state.addresses
        )
    return made


def watching_labels(state: Named, asked: set[str]) -> Named:
    """Return `state` with labels that note in `asked` the names that a consumer looks for and does not find."""
    backends = [
        replace(each, labels=MappingProxyType(AskedLabels(each.labels, asked))) for each in state.snapshot.backends()
    ]
    return Named(Snapshot.of(state.snapshot.revision, backends), state.addresses)
