"""Who may connect, and how many."""

import ipaddress
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery_tcpproxy.worker.access import Access, Limits, plain

ipv4 = st.integers(0, 255).map(lambda n: f"10.0.0.{n}") | st.ip_addresses(v=4).map(str)
ipv6 = st.integers(0, 255).map(lambda n: f"2001:db8::{n:x}") | st.ip_addresses(v=6).map(str)


@st.composite
def networks(draw: st.DrawFn) -> str:
    """A network of any size around an address that is likely to be asked for."""
    address = draw(ipv4 | ipv6)
    most = 128 if ":" in address else 32
    length = draw(st.integers(0, most) | st.integers(most - 9, most))
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


lists = st.lists(networks(), max_size=6)


@given(lists, lists, ipv4 | ipv6)
def test_deny_overrides_allow_and_an_allow_list_excludes_other_clients(
    allow: list[str], deny: list[str], client: str
) -> None:
    address = ipaddress.ip_address(plain(client))

    def among(texts: list[str]) -> bool:
        each = [ipaddress.ip_network(plain_network(text)) for text in texts]
        return any(address.version == network.version and address in network for network in each)

    expected = not among(deny) and (not allow or among(allow))
    assert Access(allow, deny).permits(client) is expected


def plain_network(text: str) -> str:
    """A network of mapped addresses as that of IPv4."""
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return f"{mapped}/{network.prefixlen - 96}"
    return text


@given(lists, lists, ipv4)
def test_an_ipv4_client_matches_the_same_networks_through_ipv6(allow: list[str], deny: list[str], client: str) -> None:
    access = Access(allow, deny)
    assert access.permits(f"::ffff:{client}") is access.permits(client)


def test_networks_of_mapped_addresses_equal_ipv4_networks() -> None:
    access = Access(["::ffff:10.0.0.0/104"])
    assert access.permits("10.255.0.1")
    assert access.permits("::ffff:10.0.0.1")
    assert not access.permits("11.0.0.0")


def test_the_network_of_all_ipv6_addresses_excludes_ipv4() -> None:
    assert not Access(["::/0"]).permits("::ffff:192.0.2.1")
    assert Access([], ["::/0"]).permits("192.0.2.1")
    assert not Access([], ["::/0"]).permits("2001:db8::1")


@pytest.mark.parametrize("client", ["", "unix:", "10.0.0.1\n", "010.0.0.1", "10.1", "localhost", "::1::", "\0", "é"])
def test_an_invalid_address_is_in_no_network(client: str) -> None:
    everywhere = ["0.0.0.0/0", "::/0"]
    assert Access().permits(client)
    assert not Access(everywhere).permits(client)
    assert Access([], everywhere).permits(client)


def test_an_address_with_a_scope_matches_its_network() -> None:
    assert not Access([], ["fe80::/10"]).permits("fe80::1%eth0")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "example.org", "", "10.0.0.0/8 ", "::/129"])
def test_the_error_names_an_invalid_network(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text)) + " is neither a network") as raised:
        Access([text])
    assert "\n" not in str(raised.value)


@given(
    st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 3),
    st.lists(st.tuples(st.booleans(), st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", ""]))),
)
def test_limits_in_total_and_per_client(
    total: int | None, per_client: int | None, steps: list[tuple[bool, str]]
) -> None:
    limits = Limits(total, per_client)
    taken: Counter[str] = Counter()
    for taking, client in steps:
        if taking:
            full = total is not None and taken.total() >= total
            full |= per_client is not None and client != "" and taken[client] >= per_client
            assert limits.take(client) is not full
            taken[client] += not full
        elif taken[client]:
            limits.release(client)
            taken[client] -= 1
        assert limits.open == taken.total()
    for client in taken.elements():
        limits.release(client)
    assert limits.open == 0
    assert not limits._counts


def test_clients_without_an_address_count_only_for_the_total_limit() -> None:
    limits = Limits(3, 1)
    assert [limits.take("") for _ in range(4)] == [True, True, True, False]
    assert not limits.take("10.0.0.1")
    limits.release("")
    assert limits.take("10.0.0.1")


def test_changed_limits_count_open_connections() -> None:
    limits = Limits()
    assert limits.take("10.0.0.1")
    assert limits.take("10.0.0.1")
    limits.change(3, 2)
    assert not limits.take("10.0.0.1")
    assert limits.take("10.0.0.2")
    assert not limits.take("10.0.0.3")
    limits.change(None, None)
    assert limits.take("10.0.0.1")
    for client in ["10.0.0.1"] * 3 + ["10.0.0.2"]:
        limits.release(client)
    assert limits.open == 0
    assert not limits._counts
