"""The announced address of a container with several addresses."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.addresses import Family, InterfaceAddress, MachineFacts, announceable, is_loopback
from discovery_docker.announce import HostPort, announce
from discovery_docker.config import DockerConfig
from discovery_docker.container import Addresses, Binding, Container
from discovery_docker.machine import Machine
from discovery_docker.rules import Rules


def there(primary: Mapping[Family, str], container: str | None = None, **variables: str) -> Machine:
    """A machine with these primary addresses and environment variables."""
    return Machine("m", MachineFacts(variables, (InterfaceAddress("eth1", "10.1.0.7"),), primary), container)


MACHINE = there({4: "10.0.0.1", 6: "2001:db8:1::1"})
ALL = (Binding("0.0.0.0", 32768), Binding("::", 32769))


def rules(**options: Any) -> Rules:
    return Rules.of(DockerConfig.model_validate(options))


def container(*bindings: Binding, networks: dict[str, Addresses] | None = None, mode: str = "default") -> Container:
    ports = {(80, "tcp"): bindings} if bindings else {}
    return Container("c" * 64, "web", running=True, ports=ports, networks=networks or {}, network_mode=mode)


def place(
    which: Container, wanted: str | None = None, machine: Machine = MACHINE, port: int = 80, **options: Any
) -> HostPort:
    found, _, problem = announce(which, port, wanted, rules(**options), machine)
    assert problem is None
    return tuple(found)  # type: ignore[return-value]


def refusal(
    which: Container, wanted: str | None = None, machine: Machine = MACHINE, port: int = 80, **options: Any
) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        announce(which, port, wanted, rules(**options), machine)
    return str(caught.value)


INSIDE = {"inside": Addresses("172.18.0.2", None), "v6": Addresses(None, "fd00::2"), "none": Addresses(None, None)}


def test_the_order_of_the_rules() -> None:
    everything = container(Binding("192.168.1.1", 8080), *ALL, networks=INSIDE)
    options: dict[str, Any] = {"networks": ["inside", "v6"], "address": "10.9.9.9", "network": "v6"}
    assert place(everything, "inside", **options) == ("172.18.0.2", 80)
    assert place(everything, **options) == ("fd00::2", 80)
    del options["network"]
    assert place(everything, **options) == ("192.168.1.1", 8080)
    assert place(container(*ALL, networks=INSIDE), **options) == ("10.9.9.9", 32768)
    del options["address"]
    assert place(container(*ALL, networks=INSIDE), **options) == ("10.0.0.1", 32768)
    assert place(container(networks=INSIDE), **options) == ("172.18.0.2", 80)
    assert "does not publish port 80" in refusal(container(networks=INSIDE))


def test_each_address_family_has_its_own_host_port() -> None:
    both = container(*ALL)
    assert place(both, address="10.9.9.9") == ("10.9.9.9", 32768)
    assert place(both, address="2001:db8::9") == ("2001:db8::9", 32769)
    assert place(both, address=["2001:db8::9", "10.9.9.9"]) == ("2001:db8::9", 32769)
    assert place(container(ALL[0]), address=["2001:db8::9", "10.9.9.9"]) == ("10.9.9.9", 32768)
    assert place(both, address="web.example") == ("web.example", 32768)
    assert place(both, machine=there({6: "2001:db8:1::1"})) == ("2001:db8:1::1", 32769)
    assert place(container(ALL[1])) == ("2001:db8:1::1", 32769)
    assert place(container(Binding("2001:db8:1::7", 81))) == ("2001:db8:1::7", 81)
    assert "for the family of the announced address, 2001:db8::9 (the configuration): publish" in refusal(
        container(ALL[0]), address="2001:db8::9"
    )
    assert "set 'address'" in refusal(container(ALL[0]), machine=there({6: "2001:db8:1::1"}))


def test_a_bound_address_is_not_replaced_by_the_configured_address() -> None:
    assert place(container(Binding("192.168.1.1", 8080)), address="10.9.9.9") == ("192.168.1.1", 8080)


def test_the_machines_own_network() -> None:
    host = container(mode="host")
    assert place(host) == ("10.0.0.1", 80)
    assert place(host, port=8081, address="10.9.9.9") == ("10.9.9.9", 8081)
    assert "set 'address' (register-container: --host)" in refusal(host, machine=there({}))


def test_a_provider_in_a_container_announces_none_of_its_own_addresses() -> None:
    inside = there({4: "172.17.0.2"}, "registrar")
    for which in (container(*ALL), container(mode="host")):
        told = refusal(which, machine=inside)
        assert "the provider in the container 'registrar' does not see the machine's addresses: set 'address'" in told
        assert "(register-container: --host), or start that container with --network host" in told
        assert place(which, machine=inside, address="10.9.9.9")[0] == "10.9.9.9"
    assert place(container(Binding("192.168.1.1", 8080), *ALL), machine=inside) == ("192.168.1.1", 8080)
    assert place(container(networks=INSIDE), machine=inside, network="inside") == ("172.18.0.2", 80)
    assert place(container(Binding("127.0.0.1", 1), *ALL), machine=inside, loopback=True) == ("127.0.0.1", 1)


def test_the_configuration_and_the_environment_are_asked_in_the_order_of_the_rule() -> None:
    """Issue 12, A.6."""
    machine = there({4: "10.0.0.1"}, DISCOVERY_ADDRESS="10.4.0.7", COREOS_PRIVATE_IPV4="10.3.0.7")
    every = container(*ALL)
    for options, expected in (
        ({"address": "interface:eth1"}, ("10.1.0.7", "the configuration: interface:eth1")),
        ({}, ("10.4.0.7", "DISCOVERY_ADDRESS")),
    ):
        found = announce(every, 80, None, rules(**options), machine)
        assert (found.place[0], found.origin) == expected
    coreos = there({4: "10.0.0.1"}, COREOS_PRIVATE_IPV4="10.3.0.7")
    assert announce(every, 80, None, rules(), coreos).origin == "COREOS_PRIVATE_IPV4"
    assert announce(every, 80, None, rules(), MACHINE).origin == "the primary address of this machine"
    bound = container(Binding("192.168.1.1", 8080), *ALL)
    found = announce(bound, 80, None, rules(address="10.9.9.9"), machine)
    assert (found.place, found.origin) == (("192.168.1.1", 8080), "the address that the port is published on")
    assert announce(container(networks=INSIDE), 80, "inside", rules(networks="*"), machine).origin == "SERVICE_NETWORK"


def test_an_address_that_the_machine_lacks_concerns_the_ports_on_all_addresses_alone() -> None:
    told = refusal(container(*ALL), address="interface:none")
    assert told.startswith("port 80 is published on all addresses: the interface none has no address, or is missing")
    assert place(container(Binding("192.168.1.1", 8080)), address="interface:none") == ("192.168.1.1", 8080)
    told = refusal(container(Binding("127.0.0.1", 8080)), address="interface:none")
    assert told.startswith("port 80 is published on 127.0.0.1 alone, which other machines cannot reach")


def test_a_provider_in_a_container_announces_the_address_that_a_variable_names() -> None:
    """As the units of the tutorial give it to the container, from /etc/environment."""
    inside = there({4: "172.17.0.2"}, "registrar", COREOS_PRIVATE_IPV4="10.3.0.7")
    assert place(container(*ALL), machine=inside) == ("10.3.0.7", 32768)


def test_loopback_only_if_asked_for() -> None:
    local = container(Binding("127.0.0.1", 32768))
    told = refusal(local)
    assert "port 80 is published on 127.0.0.1 alone" in told
    assert "set 'loopback = true' (register-container: --host)" in told
    assert place(local, loopback=True) == ("127.0.0.1", 32768)
    assert place(container(Binding("127.0.0.1", 1), ALL[1]), loopback=True) == ("2001:db8:1::1", 32769)
    assert place(container(Binding("::1", 1)), loopback=True) == ("::1", 1)


def test_the_containers_own_address_on_whichever_network_it_has() -> None:
    own = {"inside": Addresses("172.18.0.2", None), "none": Addresses(None, None)}
    assert place(container(*ALL, networks=own), internal=True) == ("172.18.0.2", 80)
    assert place(container(networks=own), internal=True, port=8080) == ("172.18.0.2", 8080)
    both = own | {"bridge": Addresses("172.17.0.2", None)}
    assert place(container(*ALL, networks=both), internal=True) == ("172.17.0.2", 80)
    assert place(container(*ALL, networks=both), internal=True, network="inside") == ("172.18.0.2", 80)
    assert place(container(*ALL, networks=both), "inside", internal=True, networks="*") == ("172.18.0.2", 80)
    assert place(container(mode="host", networks={"host": Addresses(None, None)}), internal=True) == ("10.0.0.1", 80)
    two = own | {"other": Addresses("172.19.0.2", None)}
    told = refusal(container(*ALL, networks=two), internal=True)
    assert told == "the container has an address on each of the networks 'inside', 'other': set 'network'"
    assert "has no address on a Docker network" in refusal(container(*ALL), internal=True)
    shared = container(mode="container:abc")
    assert "another container's network" in refusal(shared, internal=True)


def test_a_network_that_is_not_allowed_is_reported_and_ignored() -> None:
    config = rules(networks=["inside"])
    found, _, problem = announce(container(*ALL, networks=INSIDE), 80, "v6", config, MACHINE)
    assert tuple(found) == ("10.0.0.1", 32768)
    assert problem is not None
    assert "SERVICE_NETWORK is 'v6', which 'networks' does not allow" in problem


def test_a_network_without_the_container_is_not_replaced_by_another() -> None:
    told = refusal(container(*ALL, networks=INSIDE), "gone", networks=["*"])
    assert "the container is not on the network 'gone'; its networks: inside, none, v6" in told
    assert "has no address on the network 'none'" in refusal(container(*ALL, networks=INSIDE), "none", networks=["*"])
    assert "'gone'" in refusal(container(*ALL, networks=INSIDE), network="gone")


def test_an_unpublished_port_is_named_with_the_published_ports() -> None:
    told = refusal(container(*ALL), port=8080)
    assert "does not publish port 8080, only 80/tcp: set 'port' to one of these" in told
    assert "another container's network" in refusal(container(mode="container:abc"))
    assert "nor any other port" in refusal(container())


hosts = st.sampled_from(
    ["0.0.0.0", "::", "127.0.0.1", "::1", "10.1.1.1", "fd00::7", "224.0.0.1", "fe80::1", "169.254.1.1"]
)


@given(
    st.lists(st.builds(Binding, hosts, st.integers(1, 65535)), max_size=4),
    st.dictionaries(st.sampled_from(["a", "b"]), st.builds(Addresses, st.none() | hosts, st.none() | hosts)),
    st.sampled_from(["default", "host", "none", "container:x", "a"]),
    st.sampled_from([None, "a", "b"]),
    st.fixed_dictionaries(
        {
            "networks": st.sampled_from([[], ["a"], ["*"]]),
            "loopback": st.booleans(),
            "network": st.sampled_from([None, "a"]),
            "internal": st.booleans(),
            "address": st.sampled_from([[], ["10.9.9.9"], ["fd00::9"], ["10.9.9.9", "fd00::9"]]),
        }
    ),
    st.sampled_from([{}, {4: "10.0.0.1"}, {6: "fd00::1"}, {4: "10.0.0.1", 6: "fd00::1"}]),
)
def test_only_reachable_addresses_are_announced(
    bindings: list[Binding],
    networks: dict[str, Addresses],
    mode: str,
    wanted: str | None,
    options: dict[str, Any],
    addresses: dict[Any, str],
) -> None:
    config = rules(**options)
    try:
        (host, port), _, _ = announce(
            container(*bindings, networks=networks, mode=mode),
            80,
            wanted,
            config,
            there(addresses),
        )
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert announceable(host, loopback=config.options.loopback)
        assert not is_loopback(host) or config.options.loopback
        assert port == 80 or port in {each.host_port for each in bindings}
