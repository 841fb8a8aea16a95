"""What can be configured, and how a mistake is told."""

import re
from typing import Any

import pytest

from discovery import ConfigError
from discovery.hosting.tables import ProviderTable
from discovery_tcpproxy.config import TcpProxyConfig, service_of
from discovery_tcpproxy.targets import settings


def configured(**options: Any) -> TcpProxyConfig:
    return TcpProxyConfig.model_validate({"listen": {"web": "127.0.0.1:8080"}, **options})


def web(**options: Any) -> dict[str, Any]:
    return {"listen": {"web": {"bind": "127.0.0.1:8080", **options}}}


def complaint(options: dict[str, Any]) -> str:
    """Return the error message for a wrong configuration."""
    from discovery.daemon.faults import validate

    with pytest.raises(ConfigError) as caught:
        validate(TcpProxyConfig, options, "discovery.toml", ("consumers", "tcp"))
    return str(caught.value)


def test_an_address_is_a_short_form_of_a_listener() -> None:
    config = configured(
        listen={
            "web": "127.0.0.1:1",
            "both": ["127.0.0.1:2", "[::1]:2"],
            "table": {"bind": "127.0.0.1:3", "service": "db"},
        }
    )
    assert {name: each.bind for name, each in config.listen.items()} == {
        "web": ("127.0.0.1:1",),
        "both": ("127.0.0.1:2", "[::1]:2"),
        "table": ("127.0.0.1:3",),
    }
    assert [service_of(name, each) for name, each in config.listen.items()] == ["web", "both", "db"]


def test_services_of_an_http_proxy_are_listeners() -> None:
    services = {"web": {"bind": "127.0.0.1:1", "balance": "leastconn", "check": False}, "db": {"bind": "*:2"}}
    config = TcpProxyConfig.model_validate({"services": services, "listen": {"more": "127.0.0.1:3"}})
    assert {name: (each.bind, each.balance) for name, each in config.listen.items()} == {
        "more": (("127.0.0.1:3",), "roundrobin"),
        "web": (("127.0.0.1:1",), "leastconn"),
        "db": (("0.0.0.0:2",), "roundrobin"),
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"services": {"web": {}}}, "services.web.bind: is required"),
        ({"services": {"web": {"bind": "127.0.0.1:1"}}, "listen": {"web": "127.0.0.1:2"}}, "'web' is named in both"),
        ({"services": {"-": {"bind": "127.0.0.1:1"}}}, "'-' cannot be a listener's name"),
        (
            {"services": {"web": {"bind": "127.0.0.1:1", "hosts": "example.com"}}},
            "services.web: 'hosts' needs a proxy that reads requests, such as haproxy: the TCP proxy carries bytes",
        ),
        ({"services": {"web": {"bind": "127.0.0.1:1", "path_prefix": "/a"}}}, "'path_prefix' needs a proxy that reads"),
        (
            {"services": {"web": {"bind": "127.0.0.1:1", "check": {"path": "/"}}}},
            "services.web: the TCP proxy checks no backends",
        ),
        ({}, "name one, as in: discovery run --plugin tcpproxy --set tcpproxy.listen.web=0.0.0.0:8080"),
        ({"listen": "web"}, "listen: must be a table"),
        ({"listen": {"-": "127.0.0.1:1"}}, "'-' cannot be a listener's name"),
        ({"listen": {"web": 8080}}, "8080 is a port alone: write 127.0.0.1:8080 for this machine alone"),
        ({"listen": {"web": []}}, "there is no address"),
        ({"listen": {"web": {}}}, "listen.web.bind: is required"),
        ({"listen": {"web": ["127.0.0.1:1", "127.0.0.1:1"]}}, "listener 'web' names 127.0.0.1:1 twice"),
        ({"listen": {"web": ["127.0.0.1:1", "*:1"]}}, "0.0.0.0:1 includes 127.0.0.1:1: leave out one address"),
        ({"listen": {"web": "127.0.0.1:1", "db": "127.0.0.1:1"}}, "'web' and 'db' both listen on 127.0.0.1:1"),
        ({"listen": {"web": "/s", "db": "unix:/s"}}, "listeners 'web' and 'db' both listen on unix:/s"),
        ({"listen": {"web": "127.0.0.1:1", "db": "*:1"}}, "listeners 'web' and 'db': 0.0.0.0:1 includes 127.0.0.1:1"),
        (web(holdd=3), "listen.web.holdd: unknown key; did you mean 'hold'?"),
        (web(service="a/b"), "the service name 'a/b' is not valid: a name has 1-128 letters"),
        (web(balance="best"), "'roundrobin', 'leastconn', 'random', 'source'"),
        (web(connect_timeout=0), "0 is not a duration of more than 0"),
        (web(accept_proxy_timeout="0s"), "'0s' is not a duration of more than 0"),
        (web(accept_proxy=True), "name the networks of the proxies in front, such as"),
        (web(accept_proxy="10.0.0.1/8"), "names an address within a network: write 10.0.0.0/8"),
        (web(retries=-1), "retries: -1 is not a whole number from 0 to 100"),
        (web(on_leave="drop"), "'continue' or 'close'"),
        (web(send_proxy="v3"), "'v1' or 'v2'"),
        (web(allow="10.0.0.1/8"), "'10.0.0.1/8' names an address within a network: write 10.0.0.0/8"),
        (web(deny=["example.com"]), "'example.com' is not a network: write 10.0.0.0/8"),
        (web(allow=[7]), "listen.web.allow.0: 7 is not a network"),
        (web(mode=600), "600 is not a file mode"),
        (web(mode="999"), "'999' is not a file mode"),
        ({"workers": 0, **web()}, "workers: 0 is not a whole number from 1 to 256"),
        ({"workers": 3, **web(max_connections=2)}, "listen.web.max_connections is 2, which cannot be divided among 3"),
        ({"workers": 3, **web(max_connections_per_client=2)}, "max_connections_per_client is 2"),
        ({"workers": 3, **web(hold_connections=2)}, "hold_connections is 2"),
    ],
)  # fmt: skip
def test_a_configuration_error_is_a_single_line(options: dict[str, Any], said: str) -> None:
    told = complaint(options)
    assert said in told
    assert "\n" not in told
    assert told.startswith("discovery.toml: consumers.tcp")


def test_addresses_of_different_families_or_ports_do_not_conflict() -> None:
    listen = {"a": "0.0.0.0:1", "b": "[::]:1", "c": "0.0.0.0:2", "d": "unix:/1", "e": "127.0.0.2:3", "f": "127.0.0.3:3"}
    assert len(configured(listen=listen).listen) == 6


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, None),
        ({"on_leave": "continue"}, None),
        ({"drain": 30}, 30.0),
        ({"on_leave": "close"}, 0.0),
        ({"on_leave": "close", "drain": 5}, 5.0),
        ({"drain": 0}, 0.0),
    ],
)
def test_on_leave_and_drain_set_the_time_of_connections_to_a_removed_backend(
    options: dict[str, Any], seconds: float | None
) -> None:
    config = configured(**web(**options))
    assert config.listen["web"].closes_after == seconds
    assert settings(config, 0)["web"]["drain"] == seconds


def test_modes_are_octal() -> None:
    assert (
        configured(**web(mode="660")).listen["web"].mode == configured(**web(mode="0660")).listen["web"].mode == 0o660
    )
    assert configured().listen["web"].mode == 0o600


def test_networks_have_one_form() -> None:
    listener = configured(**web(allow="192.0.2.7", deny=["2001:DB8::/32", "10.0.0.0/255.0.0.0"])).listen["web"]
    assert (listener.allow, listener.deny) == (("192.0.2.7/32",), ("2001:db8::/32", "10.0.0.0/8"))


def test_the_schema_contains_options_and_descriptions() -> None:
    schema = TcpProxyConfig.model_json_schema()
    text = repr(schema)
    for word in ("hold", "drain", "max_connections_per_client", "Number of clients that may wait"):
        assert re.search(word, text)


def test_the_default_hold_exceeds_the_lease_of_a_dead_machine() -> None:
    """Point 12. A fail-over is a pause: twice the registrar's default ttl is the most that a lease and a retry take."""
    ttl = ProviderTable.model_fields["ttl"].default
    assert configured(**web()).listen["web"].hold > 2 * ttl + 5


def test_a_timeout_detects_a_dead_machine_unless_the_option_is_0() -> None:
    """Point 11."""
    assert configured().listen["web"].unacknowledged_timeout == 15
    told = [
        settings(configured(**web(unacknowledged_timeout=given)), 0)["web"]["unacknowledged_timeout"]
        for given in (0, "500ms")
    ]
    assert told == [0, 0.5]
