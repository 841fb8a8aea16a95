"""Properties of the codec: encoded backends decode to the same backends, and any bytes decode or are rejected."""

import ipaddress
import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from records import read

from discovery.addresses.kinds import is_destination
from discovery.codec import Record, decode, encode
from discovery.errors import RecordError
from discovery.model import Backend, Rejected, State
from discovery.testing import backend
from discovery.validity import parse_address, split_key, validate

_names = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=63)

_services = _names.filter(lambda name: name[0] not in ".-")

_labels = st.dictionaries(_names, st.text(st.characters(exclude_categories=["C", "Z"]), max_size=100), max_size=5)

_hosts = st.one_of(
    st.ip_addresses().map(str).filter(is_destination),
    st.lists(st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True), min_size=1, max_size=4).map(".".join),
)

backends = st.builds(
    Backend,
    service=_services,
    id=st.one_of(_services, st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(1, 65535))),
    host=_hosts,
    port=st.integers(1, 65535),
    weight=st.integers(0, 256),
    state=st.sampled_from(State),
    labels=_labels,
)


@given(backends, st.none() | st.just("host-1:edge"), st.none() | st.floats(0.1, 86400))
def test_what_is_written_is_read_back(written: Backend, owner: str | None, ttl: float | None) -> None:
    value = encode(written, owner, ttl)
    assert decode(written.key, value) == Record(written, owner, ttl)
    assert b"\n" not in value
    readers = json.loads(value)
    assert (readers["host"], readers["port"]) == (written.host, written.port)


_NOBODYS = [
    ipaddress.ip_network(each) for each in ("0.0.0.0/32", "255.255.255.255/32", "224.0.0.0/4", "::/128", "ff00::/8")
]
_at_the_edges = st.sampled_from(_NOBODYS).flatmap(
    lambda each: st.sampled_from((each.network_address, each.broadcast_address)).flatmap(
        lambda address: st.sampled_from((address, address - 1 if int(address) else address))
    )
)


@given(st.one_of(st.ip_addresses(), _at_the_edges), st.booleans())
def test_a_record_has_an_address_that_one_can_connect_to_in_each_of_its_forms(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, mapped: bool
) -> None:
    forbidden = any(address in network for network in _NOBODYS if network.version == address.version)
    text = f"::ffff:{address}" if mapped and address.version == 4 else str(address)
    bracketed = f"[{text}]" if ":" in text else text
    for value in (
        json.dumps({"host": text, "port": 80}),
        json.dumps({"host": bracketed, "port": 80}),
        f"{bracketed}:80",
    ):
        decoded = decode("web/a", value.encode())
        assert isinstance(decoded, Rejected if forbidden else Record), value
        if isinstance(decoded, Rejected):
            assert "one can connect to" in decoded.reason
        else:
            assert ipaddress.ip_address(decoded.backend.host) == ipaddress.ip_address(text)
    written = Backend("web", "a", text, 80)
    if forbidden:
        with pytest.raises(RecordError, match="one can connect to"):
            encode(written)
    else:
        assert read(encode(written)).backend.port == 80


@pytest.mark.parametrize(
    ("labels", "fields"),
    [
        ({"version": "2", "zone": "a"}, {"version": 2, "zone": "a"}),
        (
            {"name": "i-1", "up": "true", "none": "null", "empty": ""},
            {"name": "i-1", "up": "true", "none": "null", "empty": ""},
        ),
        ({"n": "0", "m": "-7", "most": "9" * 15}, {"n": 0, "m": -7, "most": 10**15 - 1}),
        ({"a": "007", "b": "-0", "c": "+1", "d": "1.5", "e": "1" * 16, "f": "٣", "g": " 1"}, None),
        ({"port": "1", "zone": "a"}, {"zone": "a", "labels": {"port": "1"}}),
        (dict.fromkeys(("host", "port", "weight", "state", "labels", "owner", "ttl"), "1"), {"labels": ...}),
        ({"haproxy_server_options": "check"}, {"labels": ...}),
    ],
)
def test_labels_are_written_as_docker_register_writes_its_extras(
    labels: dict[str, str], fields: dict[str, object] | None
) -> None:
    expected = labels if fields is None else {"labels": labels} if fields == {"labels": ...} else fields
    assert json.loads(encode(backend(labels=labels))) == {"host": backend().host, "port": backend().port, **expected}
    assert read(encode(backend(labels=labels))).backend.labels == labels


_field_names = ["host", "port", "weight", "state", "labels", "owner", "ttl", "haproxy_server_options", "name", "cpu"]

_number_like = st.from_regex(r"[-+]?0{0,2}[0-9]{0,17}(\.[0-9]{1,2})?", fullmatch=True)


@given(
    st.dictionaries(st.sampled_from(_field_names), _number_like | st.sampled_from(["true", "null", "{}", "[1]", '"'])),
    st.none() | st.just("me"),
    st.none() | st.just(10.0),
)
def test_labels_that_look_like_something_else_are_read_back(
    labels: dict[str, str], owner: str | None, ttl: float | None
) -> None:
    written = backend(labels=labels)
    assert decode(written.key, encode(written, owner, ttl)) == Record(written, owner, ttl)


@given(backends)
def test_an_address_is_read_back(some: Backend) -> None:
    assert parse_address(some.address) == (some.host, some.port)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)

_fields = st.fixed_dictionaries(
    {},
    optional={
        "host": st.sampled_from(["10.0.0.1", "a.example"]) | _json,
        "port": st.integers(-1, 70_000) | _json,
        "weight": st.integers(-1, 300) | _json,
        "state": st.sampled_from(["active", "draining"]) | _json,
        "labels": st.dictionaries(st.text(), _json) | _json,
        "owner": _json,
        "ttl": _json,
        "haproxy_server_options": _json,
        "extra": _json,
    },
)


@given(
    st.text() | st.just("web/b1"),
    st.binary()
    | st.text().map(lambda t: t.encode(errors="surrogatepass"))
    | _fields.map(lambda f: json.dumps(f).encode()),
)
def test_anything_is_read_or_refused_and_what_is_read_is_harmless(key: str, value: bytes) -> None:
    got = decode(key, value)
    if isinstance(got, Rejected):
        assert got.key.isprintable()
        assert got.reason.isprintable()
        return
    read = got.backend
    assert validate(read) == read
    assert split_key(key) == (read.service, read.id)
    assert "\n" not in "".join([read.service, read.id, read.host, *read.labels, *read.labels.values()])
    assert all(ignored.key.isprintable() and (ignored.field or "").isprintable() for ignored in got.ignored)
    again = decode(key, encode(read, got.owner, got.ttl))
    assert isinstance(again, Record)
    assert (again.backend, again.owner, again.ttl) == (read, got.owner, got.ttl)


@pytest.mark.parametrize(
    "bad",
    [
        backend(host="no host"),
        backend(port=0),
        backend(service="a/b"),
        backend(id=""),
        backend(weight=300),
        backend(labels={"a": "\n"}),
        backend(labels={f"l{n}": "x" * 1024 for n in range(64)}),
    ],
)
def test_what_no_reader_would_accept_is_not_written(bad: Backend) -> None:
    with pytest.raises(RecordError):
        encode(bad)


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
def test_a_ttl_that_no_reader_would_accept_is_not_written(ttl: float) -> None:
    with pytest.raises(RecordError, match="ttl"):
        encode(backend(), "me", ttl)


def test_a_host_is_written_in_its_canonical_form() -> None:
    assert json.loads(encode(backend(host="2001:DB8:0::1", id="a")))["host"] == str(ipaddress.ip_address("2001:db8::1"))
    assert json.loads(encode(backend(host="App.Example", id="a")))["host"] == "app.example"


@given(
    st.one_of(_at_the_edges.map(str), _hosts, st.sampled_from(["1.2.3.256", "01.2.3.4", "1.2.3", "1.2.3.4.5", ""])),
    st.one_of(st.integers(-1, 70000), st.sampled_from([65535, 65536])),
    st.none()
    | st.text(st.characters(max_codepoint=0x17F), max_size=40)
    | st.sampled_from(["", "a" * 1024, "a" * 1025]),
    st.none() | st.floats(0, 1e9).map(lambda seconds: round(seconds, 1)),
)
@example("10.0.0.1", 65536, "owner", 10.0)
@example("10.0.0.1", 0, "owner", 10.0)
@example("224.0.0.1", 80, "owner", 10.0)
@example("1.2.3.256", 80, "owner", 10.0)
@example("10.0.0.1", 80, 'an "owner"', 10.0)
@example("10.0.0.1", 80, "a\\b", 10.0)
@example("10.0.0.1", 80, "\u00e9\u00a0", 10.0)
@example("10.0.0.1", 80, "a\u007f", None)
@example("10.0.0.1", 80, "a" * 1025, None)
@example("10.0.0.1", 80, "owner", 0.0)
@example("10.0.0.1", 80, "owner", 40_000_000.0)
def test_a_usual_record_is_read_as_any_other(host: str, port: int, owner: str | None, ttl: float | None) -> None:
    fields = {"host": host, "port": port, "owner": owner, "ttl": ttl}
    text = json.dumps({name: value for name, value in fields.items() if value is not None}, ensure_ascii=False)
    usual, other = decode("web/a", text.encode()), decode("web/a", text.replace("{", "{ ", 1).encode())
    assert usual == other
    if isinstance(usual, Record):
        assert list(map(type, usual)) == list(map(type, other))


def test_what_follows_the_owner_is_no_part_of_the_owner() -> None:
    some = decode("web/a", b'{"host": "10.0.0.1", "port": 80, "owner": "host-1", "zone": "b"}')
    assert some == Record(backend("web", "a", "10.0.0.1", 80, labels={"zone": "b"}), "host-1")
