"""Which address is this machine's, and which may be announced."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from namespaces import in_a_network_of_its_own

from discovery.addresses import announceable, family_of, is_loopback, is_unspecified, primary_address


@pytest.mark.parametrize(
    "address", ["10.0.0.5", "203.0.113.7", "100.64.0.1", "2001:db8::1", "fd00::2", "web-1", "db.example.org"]
)
def test_what_others_can_reach_is_announceable(address: str) -> None:
    assert announceable(address)


@pytest.mark.parametrize(
    "address",
    [
        "", "*", "0.0.0.0", "0.0.0.1", "0.1.2.3", "255.255.255.255", "240.0.0.1", "224.0.0.1", "239.255.255.250",
        "169.254.169.254", "::", "::ffff:0.0.0.0", "ff02::1", "fe80::1", "::ffff:224.0.0.1", "1:2:3",
    ],
)  # fmt: skip
@pytest.mark.parametrize("loopback", [False, True])
def test_what_nobody_can_reach_is_not(address: str, loopback: bool) -> None:
    assert not announceable(address, loopback=loopback)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST.", "a.localhost"]
)
def test_a_loopback_address_is_announced_only_if_asked_for(address: str) -> None:
    assert is_loopback(address)
    assert not announceable(address)
    assert announceable(address, loopback=True)


@given(st.ip_addresses())
def test_every_announceable_address_is_one_machines(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert family_of(str(address)) == (4 if getattr(address, "ipv4_mapped", None) else address.version)
    if announceable(str(address), loopback=True):
        assert not address.is_multicast
        assert not is_unspecified(str(address))


@given(st.text(max_size=20))
def test_no_text_raises(text: str) -> None:
    announceable(text)
    family_of(text)


def test_towards_the_loopback_the_primary_address_is_no_loopback_address() -> None:
    assert primary_address(4, "127.0.0.1") == primary_address(4)
    assert primary_address(6, "::1") == primary_address(6)
    assert primary_address(4, "::1") == primary_address(4)


PRINT = "from discovery.addresses import primary_address as p; print(p(4), p(6), p(4, '10.8.0.99'), p(6, 'fd08::99'))"
TWO_LINKS = """
ip link set lo up
ip link add a0 type veth peer name a1
ip link add b0 type veth peer name b1
for link in a0 a1 b0 b1; do ip link set $link up; done
ip addr add 10.9.0.7/24 dev a0; ip addr add fd09::7/64 dev a0 nodad
ip addr add 10.8.0.7/24 dev b0; ip addr add fd08::7/64 dev b0 nodad
"""


def test_a_machine_without_a_network_has_no_address() -> None:
    assert in_a_network_of_its_own("ip link set lo up", PRINT) == "None None None None"


def test_without_a_default_route_it_is_the_first_interfaces_address() -> None:
    expected = "10.9.0.7 fd09::7 10.8.0.7 fd08::7"
    found = in_a_network_of_its_own(TWO_LINKS, PRINT).split()
    assert found[2:] == expected.split()[2:]
    assert set(found[:2]) <= {"10.9.0.7", "fd09::7", "10.8.0.7", "fd08::7"}
    assert [family_of(each) for each in found[:2]] == [4, 6]


def test_the_primary_address_is_the_one_of_the_default_route() -> None:
    routes = "ip route add default via 10.8.0.1\nip -6 route add default via fd08::1\n"
    assert in_a_network_of_its_own(TWO_LINKS + routes, PRINT) == "10.8.0.7 fd08::7 10.8.0.7 fd08::7"
    routes = "ip route add default via 10.9.0.1\nip -6 route add default via fd09::1\n"
    assert in_a_network_of_its_own(TWO_LINKS + routes, PRINT) == "10.9.0.7 fd09::7 10.8.0.7 fd08::7"
