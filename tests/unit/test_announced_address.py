"""The rule by which the announced address of a backend is chosen: its order, its forms and its refusals."""

import ipaddress
import os
from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from namespaces import in_a_network_of_its_own

from discovery.addresses import Announced, OwnAddresses, announced_address, is_dynamic
from discovery.addresses.interfaces import InterfaceAddress
from discovery.addresses.rule import VARIABLE, CloudAddresses, MachineFacts, own_addresses, parse_source

PRIMARY = "the primary address of this machine"
INTERFACES = (
    InterfaceAddress("lo", "127.0.0.1"),
    InterfaceAddress("eth0", "203.0.113.7"),
    InterfaceAddress("eth1", "10.1.0.7"),
    InterfaceAddress("eth1", "10.2.0.7"),
    InterfaceAddress("eth1", "fe80::7"),
    InterfaceAddress("eth1", "fd00::7"),
)
CLOUD = CloudAddresses("GCE", "10.9.0.7", "198.51.100.7")
COREOS = {"COREOS_PRIVATE_IPV4": "10.3.0.7", "COREOS_PUBLIC_IPV4": "203.0.113.7"}


def facts(environment: Mapping[str, str] | None = None, metadata: CloudAddresses | str | None = None) -> MachineFacts:
    return MachineFacts(environment or {}, INTERFACES, {4: "203.0.113.7", 6: "fd00::7"}, metadata)


def own(*configured: str, metadata: CloudAddresses | str | None = None, **environment: str) -> list[str]:
    found = own_addresses(tuple(map(parse_source, configured)), facts(environment, metadata))
    return [f"{each.host} {each.origin}" for each in found]


def test_the_steps_decide_in_their_order() -> None:
    """Issue 12, A.6: each step decides although every later step has an address, too."""
    environment = {"DISCOVERY_ADDRESS": "10.4.0.7", **COREOS}
    steps = {}
    for requested, published, configured, variable, coreos in product((True, False), repeat=5):
        known = {k: v for k, v in environment.items() if (variable if k == "DISCOVERY_ADDRESS" else coreos)}
        addresses = own_addresses(("10.5.0.7",) if configured else (), facts(known))
        ports = ("0.0.0.0", "10.6.0.7") if published else ("0.0.0.0",)
        chosen = announced_address(addresses, ports, requested="172.18.0.2" if requested else None)
        assert chosen is not None
        first = [requested, published, configured, variable, coreos, True].index(True)
        steps.setdefault(first, set()).add((str(chosen[0]), chosen[1]))
    assert steps == {
        0: {("172.18.0.2 (SERVICE_NETWORK)", -1)},
        1: {("10.6.0.7 (the address that the port is published on)", 1)},
        2: {("10.5.0.7 (the configuration)", 0)},
        3: {("10.4.0.7 (DISCOVERY_ADDRESS)", 0)},
        4: {("10.3.0.7 (COREOS_PRIVATE_IPV4)", 0)},
        5: {(f"203.0.113.7 ({PRIMARY})", 0)},
    }


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ("interface:eth1", ["10.1.0.7", "fd00::7"]),
        ("network:10.2.0.0/16", ["10.2.0.7"]),
        ("network:fd00::/8", ["fd00::7"]),
        ("metadata", ["10.9.0.7"]),
        ("metadata:public", ["198.51.100.7"]),
        ("Web-1.example.com", ["web-1.example.com"]),
        ("[2001:db8:0::1]", ["2001:db8::1"]),
        ("127.0.0.1", ["127.0.0.1"]),
    ],
)
def test_a_configuration_and_the_variable_have_the_same_forms(configured: str, expected: list[str]) -> None:
    note = f": {configured}" if is_dynamic(configured) else ""
    given = own(configured, metadata=CLOUD)
    assert given == [f"{host} the configuration{note}" for host in expected]
    given = own(metadata=CLOUD, DISCOVERY_ADDRESS=f" {configured} ,")
    assert given == [f"{host} DISCOVERY_ADDRESS{note}" for host in expected]


def test_of_several_sources_the_first_of_each_family_counts() -> None:
    assert own("10.5.0.7", "interface:eth1", "db") == [
        "10.5.0.7 the configuration",
        "fd00::7 the configuration: interface:eth1",
        "db the configuration",
    ]
    assert own(DISCOVERY_ADDRESS="10.5.0.7, fd00::5") == ["10.5.0.7 DISCOVERY_ADDRESS", "fd00::5 DISCOVERY_ADDRESS"]


def test_a_machine_without_a_private_network_announces_the_public_address_of_its_metadata() -> None:
    """A droplet outside of any VPC has a public address alone."""
    assert own("metadata", metadata=CloudAddresses("DigitalOcean", None, "198.51.100.7")) == [
        "198.51.100.7 the configuration: metadata"
    ]


@pytest.mark.parametrize(
    ("configured", "metadata", "message"),
    [
        ("interface:eth2", None, "the interface eth2 has no address, or is missing; interfaces with addresses: lo"),
        ("interface:lo", None, "the interface lo has no address that other machines can reach, only 127.0.0.1"),
        ("network:192.168.0.0/16", None, "this machine has no address in 192.168.0.0/16; its addresses: 203.0.113.7, "),
        ("metadata", "it is away", "metadata: it is away"),
        ("metadata:public", CloudAddresses("AWS", "10.0.0.1"), "metadata:public: the metadata of AWS has no public"),
    ],
)  # fmt: skip
def test_a_source_that_the_machine_lacks_is_a_fault_and_no_other_step_replaces_it(
    configured: str, metadata: CloudAddresses | str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        own(configured, metadata=metadata, **COREOS)
    with pytest.raises(ValueError, match=f"^DISCOVERY_ADDRESS: {raised.value}$"):
        own(metadata=metadata, DISCOVERY_ADDRESS=configured)


@pytest.mark.parametrize(
    "text",
    [
        "", "0.0.0.0", "::", "224.0.0.1", "169.254.169.254", "fe80::1", "*", "a b", "http://a", "interface:", "a/b",
        "10.0.0.300", "127.1", "web.0x10", "a..b",
        "interface:a/b", "interface:sixteen-letters-", "network:", "network:10.0.0.1/8", "network:x",
        "metadata:x", "1:2",
    ],
)  # fmt: skip
def test_other_forms_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="write ") as raised:
        parse_source(text)
    assert "\n" not in str(raised.value)
    if text:
        with pytest.raises(ValueError, match="^DISCOVERY_ADDRESS: "):
            own(DISCOVERY_ADDRESS=text)


def test_variables_of_coreos_and_flatcar_count_for_their_family_alone() -> None:
    assert own(**COREOS) == ["10.3.0.7 COREOS_PRIVATE_IPV4", f"fd00::7 {PRIMARY}"]
    assert own(COREOS_PRIVATE_IPV6="fd03::7") == ["fd03::7 COREOS_PRIVATE_IPV6", f"203.0.113.7 {PRIMARY}"]


@pytest.mark.parametrize(
    "name",
    [
        "COREOS_EC2_IPV4_LOCAL", "COREOS_DIGITALOCEAN_IPV4_PRIVATE_0", "COREOS_HETZNER_PRIVATE_IPV4_0",
        "COREOS_GCE_IP_LOCAL_0", "COREOS_OPENSTACK_IPV4_LOCAL", "AFTERBURN_AWS_IPV4_LOCAL", "AFTERBURN_GCP_IP_LOCAL_0",
        "COREOS_CUSTOM_PRIVATE_IPV4", "AFTERBURN_EXOSCALE_LOCAL_IPV4",
    ],
)  # fmt: skip
def test_variables_of_a_cloud_count_after_those_of_coreos(name: str) -> None:
    assert own(**{name: "10.3.1.7"})[0] == f"10.3.1.7 {name}"
    assert own(**{name: "10.3.1.7"}, **COREOS)[0] == "10.3.0.7 COREOS_PRIVATE_IPV4"


@pytest.mark.parametrize(
    "environment",
    [
        {"COREOS_PUBLIC_IPV4": "198.51.100.7"},
        {"COREOS_EC2_IPV4_PUBLIC": "198.51.100.7"},
        {"COREOS_HETZNER_PRIVATE_IPV4_1": "10.3.0.7"},
        {"COREOS_PRIVATE_IPV4": ""},
        {"COREOS_PRIVATE_IPV4": "$private_ipv4"},
        {"COREOS_PRIVATE_IPV4": "169.254.1.1"},
        {"DISCOVERY_ADDRESS": " , "},
    ],
)
def test_a_public_address_or_no_address_in_a_variable_does_not_count(environment: dict[str, str]) -> None:
    assert own(**environment) == [f"203.0.113.7 {PRIMARY}", f"fd00::7 {PRIMARY}"]


def test_a_variable_with_another_text_than_an_address_is_told_once() -> None:
    environment = {"COREOS_PRIVATE_IPV4": "10.0.0.5/24", "COREOS_EC2_IPV4_LOCAL": "", "COREOS_PRIVATE_IPV6": "fd03::7"}
    told: list[str] = []
    addresses = OwnAddresses((), environment, told.append)
    for _ in range(2):
        assert Announced("fd03::7", "COREOS_PRIVATE_IPV6") in addresses.read()
    assert told == ["COREOS_PRIVATE_IPV4 is ignored: '10.0.0.5/24' is not an IP address that other machines can reach"]


def test_a_variable_that_decides_nothing_is_not_told() -> None:
    environment, told = {"COREOS_PRIVATE_IPV4": "10.0.0.5/24"}, list[str]()
    OwnAddresses(["10.0.0.1"], environment, told.append).read()
    OwnAddresses((), {VARIABLE: "10.0.0.1", **environment}, told.append).read()
    assert told == []


V4, V6, NAME = Announced("10.0.0.1", "a"), Announced("fd00::1", "b"), Announced("db", "c")


@pytest.mark.parametrize(
    ("addresses", "published", "expected"),
    [
        ([V4, V6], ["0.0.0.0", "::"], (V4, 0)),
        ([V6, V4], ["0.0.0.0", "::"], (V6, 1)),
        ([V4, V6], ["::"], (V6, 0)),
        ([V4], ["::"], None),
        ([V4], [""], (V4, 0)),
        ([NAME], ["127.0.0.1", "::"], (NAME, 1)),
        ([V4], ["127.0.0.1"], None),
        ([V4], [], None),
        ([], ["0.0.0.0"], None),
    ],
)
def test_a_publication_on_all_addresses_belongs_to_the_address_of_its_family(
    addresses: list[Announced], published: list[str], expected: tuple[Announced, int] | None
) -> None:
    assert announced_address(addresses, published) == expected


def test_a_loopback_address_is_announced_only_on_request_and_last() -> None:
    explicit = "the address that the port is published on"
    assert announced_address([], ["127.0.0.1"], loopback=True) == (Announced("127.0.0.1", explicit), 0)
    assert announced_address([V4], ["127.0.0.1", "0.0.0.0"], loopback=True) == (V4, 1)


@given(
    st.lists(st.ip_addresses().map(str)),
    st.lists(st.one_of(st.ip_addresses().map(str), st.sampled_from(["", "0.0.0.0", "::", "127.0.0.1"]))),
)
def test_the_rule_announces_nothing_that_was_neither_given_nor_published(own: list[str], published: list[str]) -> None:
    chosen = announced_address([Announced(host, "x") for host in own], published)
    if chosen is not None:
        address, index = chosen
        assert address.host == published[index] if address.origin != "x" else address.host in own
        assert not ipaddress.ip_address(address.host).is_unspecified or address.origin == "x"


def test_an_object_reads_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "DISCOVERY_ADDRESS", "10.8.0.7")
    assert OwnAddresses().read() == (Announced("10.8.0.7", "DISCOVERY_ADDRESS"),)
    assert OwnAddresses(["10.9.0.7"]).read() == (Announced("10.9.0.7", "the configuration"),)
    with pytest.raises(ValueError, match="is not an address"):
        OwnAddresses(["a b"])


def test_the_interfaces_of_a_machine_are_read_with_all_their_addresses() -> None:
    """A second address of an interface, and an alias, are addresses as well."""
    setup = """
    ip link set lo up
    ip link add a0 type veth peer name a1
    ip link set a0 up; ip link set a1 up
    ip addr add 10.9.0.7/24 dev a0; ip addr add 10.9.0.8/24 dev a0; ip addr add 10.9.1.7/24 dev a0 label a0:x
    ip addr add fd09::7/64 dev a0 nodad
    """
    code = (
        "from discovery.addresses import OwnAddresses; from discovery.addresses.interfaces import interface_addresses;"
        "print([tuple(a) for a in interface_addresses() if not a.address.startswith('fe80')]);"
        "print(*OwnAddresses(['interface:a0']).read(), *OwnAddresses(['network:10.9.1.0/24']).read(), sep='; ')"
    )
    assert in_a_network_of_its_own(setup, code).splitlines() == [
        (
            "[('lo', '127.0.0.1'), ('a0', '10.9.0.7'), ('a0:x', '10.9.1.7'), ('a0', '10.9.0.8'), ('lo', '::1'),"
            " ('a0', 'fd09::7')]"
        ),
        (
            "10.9.0.7 (the configuration: interface:a0); fd09::7 (the configuration: interface:a0);"
            " 10.9.1.7 (the configuration: network:10.9.1.0/24)"
        ),
    ]
