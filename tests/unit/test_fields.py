"""The types of options: what each form means, and what a person is told of any other."""

import re
import subprocess
import sys
from contextlib import nullcontext
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from discovery.fields import (
    BalanceAlgorithm,
    BindAddress,
    Duration,
    HostHeader,
    Hosts,
    HttpMethod,
    HttpStatuses,
    Labels,
    Networks,
    OneOrMany,
    Prefixes,
    RequestTarget,
    Senders,
    ServiceName,
    Weight,
    WholeNumber,
    bind_tables,
    check_kind,
    duration_text,
    has_labels,
)
from discovery.plugin import PluginConfig


class Options(PluginConfig):
    interval: Annotated[float, Duration(0.1, 3600)] = 5.0
    ports: OneOrMany[int] = (80,)
    allow: Networks = ()
    accept: Senders = ()
    service: ServiceName = "web"
    weight: Weight = 1


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (3, 3), (0.5, 0.5), ("10", 10), ("0.5", 0.5), (".5", 0.5), ("500ms", 0.5), ("10s", 10), ("5m", 300),
        ("2h", 7200), ("1d", 86400), ("1.5s", 1.5), ("1m30s", 90), ("1h2m3.5s", 3723.5), ("7us", 7e-6), ("7µs", 7e-6),
    ],
)  # fmt: skip
def test_a_duration_is_in_seconds_or_has_units(written: object, seconds: float) -> None:
    assert Duration().parse(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    [
        "", "s", "5 s", " 5", "5s\n", "-1s", -1, True, False, None, [], [5], {}, "1s1", "1e3", "½s", "٣s", "1w",
        "9" * 40, "1s" * 500, float("nan"), float("inf"), 10**400, 1e12, 0, "0s",
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_in_a_short_line(written: object) -> None:
    with pytest.raises(ValueError, match=r"is not a duration of more than 0 and at most 365d: write .*500ms") as caught:
        Duration().parse(written)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "told"),
    [
        (Duration(1, 3600), ("1s", "1h"), ("999ms", 3600.1, 0), "from 1s to 1h:"),
        (Duration(0.1, 60, zero="never"), (0, "100ms", "1m"), ("99ms", 61), "from 100ms to 1m, or 0 (never):"),
        (Duration(most=60, zero="at once"), (0, "0s", "1ms", 60), (60.1, -0.1), "from 0 (at once) to 1m:"),
    ],
)
def test_a_duration_has_bounds(bounds: Duration, good: tuple[object, ...], bad: tuple[object, ...], told: str) -> None:
    for written in good:
        bounds.parse(written)
    for written in bad:
        with pytest.raises(ValueError, match="is not a duration") as caught:
            bounds.parse(written)
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (1, "1s"), (90, "90s"), (3600, "1h"), (86400, "1d"), (1.5, "1500ms"), (0.1, "100ms"), (5e-4, "0.5ms")],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.integers(1, 10**10))
def test_a_duration_written_is_the_duration_read(milliseconds: int) -> None:
    assert Duration(most=1e9).parse(duration_text(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("localhost:80", "127.0.0.1:80"),
        ("*:80", "0.0.0.0:80"),
        ("0.0.0.0:080", "0.0.0.0:80"),
        ("[::]:80", "[::]:80"),
        ("[0:0::1]:80", "[::1]:80"),
        ("[fe80:0::1%br-1.2@x]:80", "[fe80::1%br-1.2@x]:80"),
        ("unix:/run/web.sock", "unix:/run/web.sock"),
        ("/run/web.sock", "unix:/run/web.sock"),
    ],
)
def test_an_address_to_listen_on_has_one_form(written: str, means: str) -> None:
    assert BindAddress().parse(written) == BindAddress().parse(means) == means


@pytest.mark.parametrize("bare", [":8080", 8080])
def test_a_bare_port_is_refused_with_the_explicit_forms(bare: object) -> None:
    with pytest.raises(ValueError, match=r"write 127.0.0.1:8080 .* 0.0.0.0:8080 .* or \[::\]:8080"):
        BindAddress().parse(bare)


@pytest.mark.parametrize(
    "written",
    [
        "", ":", "80", "host", "host:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:80x",
        "127.1:80", "::1:80", "[127.0.0.1:80", "[127.0.0.1]:80", "127.0.0.1:80\n", "127.0.0.1:80-90", "unix:web.sock",
        "unix:", "unix:/run/", "unix:/" + "x" * 107, "unix:/a\nb", "[::1%eth0]:٣", 80, True, None, 1.5, [],
        "[fe80::1%a b]:80", "[fe80::1%\n  user root]:80", "[fe80::1%#]:80", "[fe80::1%" + "x" * 16 + "]:80",
    ],
)  # fmt: skip
def test_what_is_no_address_to_listen_on_is_refused_with_the_way_out(written: object) -> None:
    with pytest.raises(ValueError, match=r"write|brackets|printable"):
        BindAddress().parse(written)


def test_a_socket_path_may_be_as_long_as_the_kernel_takes() -> None:
    assert BindAddress().parse("unix:/" + "x" * 106) == "unix:/" + "x" * 106


def test_where_names_are_valid_localhost_is_a_name() -> None:
    named = BindAddress(sockets=False, names=True)
    assert [named.parse(each) for each in ("localhost:1", "web.example:1", "*:1")] == [
        "localhost:1", "web.example:1", "0.0.0.0:1"
    ]  # fmt: skip
    for wrong in ("unix:/run/x", "a b:1", "::1:1"):
        with pytest.raises(ValueError, match="write"):
            named.parse(wrong)


def test_whole_numbers() -> None:
    assert [WholeNumber(1, 9).parse(each) for each in (1, 9, 3.0, "5")] == [1, 9, 3, 5]
    for wrong in (0, 10, 1.5, True, "x", "", None, [], float("inf"), float("nan"), 10**400, "9" * 400):
        with pytest.raises(ValueError, match="is not a whole number from 1 to 9"):
            WholeNumber(1, 9).parse(wrong)


def test_one_may_stand_for_a_list() -> None:
    assert Options.model_validate({"ports": 80, "allow": "10.0.0.0/8"}) == Options.model_validate(
        {"ports": [80], "allow": ["10.0.0.0/8"]}
    )


def test_networks_have_one_form() -> None:
    options = Options.model_validate(
        {"allow": ["192.0.2.7", "2001:DB8::/32"], "accept": ["unix", "10.0.0.0/255.0.0.0"]}
    )
    assert options.allow == ("192.0.2.7/32", "2001:db8::/32")
    assert options.accept == ("unix", "10.0.0.0/8")
    assert Options.model_validate({"accept": False}).accept == ()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"accept": True}, "name the networks of the proxies in front"),
        ({"allow": "unix"}, "'unix' is not a network"),
        ({"allow": ["10.0.0.1/8"]}, "names an address within a network: write 10.0.0.0/8"),
        ({"service": "a/b"}, "the service name 'a/b' is not valid: a name has 1-128 letters"),
        ({"service": 7}, "7 is not the name of a service"),
        ({"weight": 257}, "257 is not a whole number from 0 to 256"),
        ({"ports": ["x"]}, "valid integer"),
    ],
)
def test_a_mistake_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Options.model_validate(options)
    assert told in str(caught.value)


def test_the_schema_says_what_is_valid() -> None:
    described = Options.model_json_schema()["properties"]
    number, text = described["interval"]["anyOf"]
    assert number == {"type": "number", "minimum": 0.1, "maximum": 3600}
    assert text["type"] == "string"
    assert described["weight"] == {"type": "integer", "minimum": 0, "maximum": 256, "default": 1, "title": "Weight"}
    assert described["ports"]["anyOf"] == [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]
    assert described["accept"]["anyOf"][0] == {"const": False}


def test_the_types_are_imported_without_pydantic() -> None:
    program = "import sys, discovery.fields; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class Selection(PluginConfig):
    hosts: Hosts = ()
    path_prefix: Prefixes = ()
    labels: Labels = {}


def test_a_selection_has_canonical_hosts_paths_and_labels() -> None:
    written = {"hosts": "*.Example.com", "path_prefix": ["/api/", "/"], "labels": {"zone": ["a", 1], "primary": True}}
    selection = Selection.model_validate(written)
    assert selection.hosts == ("*.example.com",)
    assert selection.path_prefix == ("/api", "/")
    assert selection.labels == {"zone": ("a", "1"), "primary": ("true",)}
    assert has_labels({"zone": "1", "primary": "true"}, selection.labels)
    assert not has_labels({"zone": "a"}, selection.labels)
    assert has_labels({}, {"zone": ("",)})


@pytest.mark.parametrize(
    ("option", "written", "message"),
    [
        ("hosts", "example.com:80", "'example.com:80' is not a host pattern: write example.com,"),
        ("hosts", 5, "5 is not a host pattern"),
        ("path_prefix", "api", "'api' is not a path that begins with '/'"),
        ("labels", {"a b": "x"}, "'a b' is not a label's name"),
        ("labels", {"zone": []}, "the list of values is empty, which no backend has"),
        ("labels", {"zone": {"a": 1}}, "a table is not the value of a label"),
    ],
)
def test_what_is_no_selection_is_refused(option: str, written: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Selection.model_validate({option: written})


class OfProxies(PluginConfig):
    balance: BalanceAlgorithm = "roundrobin"
    status: HttpStatuses = "200"
    method: HttpMethod = "GET"
    path: RequestTarget = "/"
    host: HostHeader = "localhost"


@pytest.mark.parametrize(
    ("option", "written", "reason"),
    [
        ("balance", "rr", "'rr' is not a balance algorithm: roundrobin, "),
        ("balance", "hdr()", "is not a balance algorithm"),
        ("balance", "uri\n", "is not a balance algorithm"),
        ("balance", 1, "valid string"),
        ("status", "600", "'600' is not an HTTP status: write 200, 200-399 or a list of these"),
        ("status", [], "is not an HTTP status"),
        ("status", True, "is not an HTTP status"),
        ("method", "get", "'get' is not an HTTP method"),
        ("path", "x", "'x' is not a path that begins with '/'"),
        ("path", "/ü", "is not a path"),
        ("host", "a b", "'a b' is not a Host header"),
    ],
)
def test_an_option_of_proxies_is_refused_with_its_forms(option: str, written: object, reason: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(reason)):
        OfProxies.model_validate({option: written})


@pytest.mark.parametrize(
    ("written", "statuses"), [(204, "204"), ("200-399", "200-399"), ([200, "300-399"], "200,300-399")]
)
def test_statuses_are_one_text(written: object, statuses: str) -> None:
    assert OfProxies.model_validate({"status": written}).status == statuses


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"given": {"status"}}, "'status' is for an HTTP check"),
        ({"path": "/", "expect": "x"}, "'send' and 'expect' are for a TCP check"),
        ({"send": "x"}, "'send' has no effect without 'expect'"),
        ({"path": "/", "given": {"status"}}, None),
        ({"send": "x", "expect": "y"}, None),
    ],
)
def test_a_check_is_of_one_kind(options: dict[str, Any], reason: str | None) -> None:
    arguments = {"path": None, "send": None, "expect": None, "given": (), **options}
    with pytest.raises(ValueError, match=reason) if reason else nullcontext():
        check_kind(**arguments)


def test_addresses_alone_become_tables() -> None:
    table = {"address": "127.0.0.1:1", "certificate": "/x"}
    assert bind_tables("127.0.0.1:1") == ({"address": "127.0.0.1:1"},)
    assert bind_tables([80, table]) == ({"address": 80}, table)
    for wrong, reason in (([], "is empty"), (True, "a bind is an address"), ([None], "a bind is an address")):
        with pytest.raises(ValueError, match=reason):
            bind_tables(wrong)
