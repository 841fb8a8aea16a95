"""Parsing the JSON of `docker inspect`, valid and malformed."""

import copy
import json
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery_docker.container import (
    Addresses,
    Binding,
    Container,
    parse,
    parse_image_names,
    parse_timestamp,
    signal_number,
)

RECORDED = json.loads((Path(__file__).parent / "data" / "inspected.json").read_text())
"""Of Docker 20.10: with a network of its own, and ports that IPv4 and IPv6 differ in."""

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def changed(**sections: Mapping[str, object]) -> dict[str, Any]:
    """Return the recorded document with some values replaced."""
    document = copy.deepcopy(RECORDED)
    for name, values in sections.items():
        document[name] |= values
    return document


def places(document: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths of all values in a document."""
    entries: list[tuple[str | int, object]] = []
    if isinstance(document, dict):
        entries = list(document.items())
    elif isinstance(document, list):
        entries = list(enumerate(document))
    return [path] + [place for key, value in entries for place in places(value, (*path, key))]


def test_a_recorded_container() -> None:
    container = parse(RECORDED)
    assert container == Container(
        id="b3e87df667f6540cd920abc21f0a01a10c9042bba6c489b6c2b0437245c156bf",
        name="web",
        image="httpd:test",
        image_id="sha256:d75ca20b837b12f8a363b921df91dac3cd1cce8e1362211b16cc055f09f54fb1",
        running=True,
        paused=False,
        health="healthy",
        created_at=1795367472063945579,
        started_at=1795367472413379671,
        labels={"SERVICE_NAME": "web"},
        env={"SERVICE_TAGS": "a,b", "PATH": "/bin", "HTTPD_PREFIX": "/usr/local/apache2"},
        ports={
            (80, "tcp"): (Binding("0.0.0.0", 32769), Binding("::", 32770)),
            (443, "tcp"): (Binding("127.0.0.1", 8443),),
        },
        exposed=((53, "udp"), (80, "tcp"), (443, "tcp")),
        networks={"back": Addresses("172.30.0.2", "fd00:30::2"), "bridge": Addresses("172.17.0.2", None)},
        network_mode="default",
        stop_signal=signal.SIGWINCH,
        stop_timeout=3,
    )


@pytest.mark.parametrize(
    ("image", "is_id"),
    [
        ("sha256:d75ca20b837b12f8a363b921df91dac3cd1cce8e1362211b16cc055f09f54fb1", True),
        ("d75ca20b837b12f8a363b921df91dac3cd1cce8e1362211b16cc055f09f54fb1", True),
        ("d75ca20b837b", True),
        ("D75CA20B837B", False),
        ("d75ca20b837c", False),
        ("d75ca20b837b:1", False),
        ("httpd@sha256:d75ca20b837b12f8a363b921df91dac3cd1cce8e1362211b16cc055f09f54fb1", False),
        ("httpd", False),
        ("", False),
    ],
)
def test_an_image_named_by_its_id(image: str, is_id: bool) -> None:
    container = parse(changed(Config={"Image": image}))
    assert container.is_image_named_by_id is is_id
    names = parse_image_names({"RepoTags": ["b:1", "a/c:2"], "RepoDigests": ["a/c@sha256:00", 1]})
    assert names == ("a/c:2", "a/c@sha256:00", "b:1")
    assert container.images == (image,)
    assert replace(container, image_names=names).images == names


@given(anything)
def test_any_image_document_is_parsed(document: object) -> None:
    assert all(isinstance(name, str) for name in parse_image_names(document))


def test_the_order_of_bindings_is_no_difference() -> None:
    entries = RECORDED["NetworkSettings"]["Ports"]["80/tcp"]
    other = changed(NetworkSettings={"Ports": {"80/tcp": [*reversed(entries), entries[0]]}})
    assert parse(other).ports[80, "tcp"] == parse(RECORDED).ports[80, "tcp"]


@pytest.mark.parametrize(
    ("state", "runs"),
    [
        ({}, True),
        ({"Paused": True, "Status": "paused"}, True),
        ({"Running": False, "Status": "exited"}, False),
        ({"Restarting": True, "Status": "restarting"}, False),
        ({"Dead": True}, False),
        ({"Running": "yes"}, False),
    ],
)
def test_the_running_states(state: dict[str, object], runs: bool) -> None:
    container = parse(changed(State=state))
    assert container.running is runs
    assert container.paused is bool(state.get("Paused"))


def test_host_networking_has_neither_ports_nor_addresses() -> None:
    """In Docker's JSON the network is called host, and its addresses are empty."""
    network = {"Ports": {}, "Networks": {"host": {"IPAddress": "", "GlobalIPv6Address": ""}}}
    container = parse(changed(HostConfig={"NetworkMode": "host"}, NetworkSettings=network))
    assert (container.network_mode, container.ports, container.networks) == (
        "host",
        {},
        {"host": Addresses(None, None)},
    )
    assert container.exposed == parse(RECORDED).exposed


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "80 ", "8o", "٨٠", "9" * 5000, 80, None])
def test_a_binding_with_an_invalid_port_is_dropped(port: object) -> None:
    entries = [{"HostIp": "0.0.0.0", "HostPort": port}]
    assert parse(changed(NetworkSettings={"Ports": {"80/tcp": entries}})).ports == {}


@pytest.mark.parametrize(
    ("address", "host"),
    [("", "0.0.0.0"), ("10.0.0.1", "10.0.0.1"), ("0:0::1", "::1"), ("web.example", None), ("10.0.0.1\n", None)],
)
def test_the_address_of_a_binding(address: str, host: str | None) -> None:
    entries = [{"HostIp": address, "HostPort": "8080"}]
    bindings = parse(changed(NetworkSettings={"Ports": {"80/tcp": entries}})).ports.get((80, "tcp"))
    assert bindings == (None if host is None else (Binding(host, 8080),))


def test_an_exposed_port_without_a_protocol_is_tcp() -> None:
    assert parse(changed(Config={"ExposedPorts": {"80": {}, "http/tcp": {}}})).exposed == ((80, "tcp"),)


def test_variables_keep_what_follows_the_first_equals_sign() -> None:
    env = ["A=b=c", "EMPTY=", "BARE", "A=last"]
    assert parse(changed(Config={"Env": env})).env == {"A": "last", "EMPTY": "", "BARE": ""}


def test_the_environment_is_not_shown() -> None:
    assert "hunter2" not in repr(parse(changed(Config={"Env": ["PASSWORD=hunter2"]})))


def test_a_container_without_health_checks() -> None:
    assert parse(changed(State={"Health": {"Status": "none"}})).health is None
    assert parse(changed(State={"Health": None})).health is None


def test_a_container_without_a_name_has_its_short_id_as_name() -> None:
    assert parse({"Id": "0123456789abcdef"}).name == "0123456789ab"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        (" SIGWINCH ", 28),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("", None),
        ("SIG", None),
        ("SIG_DFL", None),
        ("nonsense", None),
        ("٩", None),
    ],
)
def test_signals_as_docker_takes_them(name: str, number: int | None) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize(
    ("sent", "configured", "stops"),
    [
        (15, "", True),
        (9, "SIGWINCH", True),
        (28, "SIGWINCH", True),
        (28, "", False),
        (1, "SIGWINCH", False),
        (10, "SIGWINCH", False),
        (37, "SIGRTMIN+3", True),
    ],
)
def test_the_signals_that_stop_a_container(sent: int, configured: str, stops: bool) -> None:
    assert parse(changed(Config={"StopSignal": configured})).is_stop_signal(sent) is stops


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01T00:00:01.000000002Z", 10**9 + 2),
        ("1970-01-01T01:00:01.5+01:00", 1_500_000_000),
        ("0001-01-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00+23:00", 0),
        ("2026-13-01T00:00:00Z", 0),
        ("yesterday", 0),
        (None, 0),
    ],
)
def test_timestamps(text: object, nanoseconds: int) -> None:
    assert parse_timestamp(text) == nanoseconds


@given(anything)
def test_any_document_is_parsed(document: object) -> None:
    assert isinstance(parse(document), Container)


@given(st.sampled_from(places(RECORDED)[1:]), anything | st.just(...))
def test_an_invalid_value_affects_only_its_section(place: tuple[str | int, ...], value: object) -> None:
    """The other sections are parsed as before if a value is replaced or removed."""
    document = copy.deepcopy(RECORDED)
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    container, expected = parse(document), parse(RECORDED)
    if place[0] != "Id":
        assert container.id == expected.id
    if place[0] != "Config":
        assert (container.labels, container.env, container.exposed) == (expected.labels, expected.env, expected.exposed)
    if place[0] != "NetworkSettings":
        assert (container.ports, container.networks) == (expected.ports, expected.networks)
    if place[0] != "State":
        assert (container.running, container.health) == (expected.running, expected.health)
