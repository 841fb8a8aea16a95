"""Options: which are refused, and with which words."""

from typing import Any

import pytest

from discovery import ConfigError
from discovery.daemon.faults import validate
from discovery_dns.config import DnsConfig


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"listen": []}, "there is no address"),
        ({"listen": ["127.0.0.1:53", "127.0.0.1:53"]}, "127.0.0.1:53 is named twice"),
        ({"listen": ["0.0.0.0:53", "127.0.0.1:53"]}, "127.0.0.1:53 and 0.0.0.0:53 are one address"),
        ({"listen": "unix:/run/x"}, "unix:/run/x"),
        ({"domain": ""}, "is not a domain"),
        ({"domain": "."}, "write service.internal"),
        ({"domain": "a..b"}, "is not a domain"),
        ({"domain": "x" * 64}, "is not a domain"),
        ({"domain": "ü.example"}, "is not a domain"),
        ({"domain": 7}, "7 is not a domain"),
        ({"domain": ".".join(["x" * 60] * 4)}, "at most 200 characters"),
        ({"services": ["web", "a/b"]}, '"a/b" is not the name of a service, or a pattern such as web-*'),
        ({"services": 7}, "7 is not the name of a service"),
        ({"backup": {"label": "zone"}}, "exactly one of 'is' and 'not'"),
        ({"backup": {"label": "zone", "is": "a", "not": "b"}}, "exactly one of 'is' and 'not'"),
        ({"backup": {"label": "a b", "is": "x"}}, "is not the name of a label"),
        ({"max_answers": 0}, "max_answers"),
        ({"ttl": "2d"}, "ttl"),
        ({"recursion": True}, "recursion"),
    ],
)
def test_an_invalid_configuration_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(DnsConfig, options, "discovery.toml")
    assert told.replace('"', "'") in str(caught.value).replace('"', "'")
    assert "\n" not in str(caught.value)


def test_without_options_the_server_listens_on_this_machine_alone() -> None:
    config = DnsConfig()
    assert (config.listen, config.domain) == (("127.0.0.1:5300",), "service.internal")


def test_a_domain_is_lower_case_without_its_final_dot() -> None:
    assert DnsConfig.model_validate({"domain": "Lan.Example."}).domain == "lan.example"


def test_services_are_names_and_patterns() -> None:
    config = DnsConfig.model_validate({"services": ["web-?", "db", "api.*"]})
    assert [each for each in ("web-1", "web-12", "db", "DB", "db2", "api.v1", "apix") if config.serves(each)] == [
        "web-1", "db", "api.v1"
    ]  # fmt: skip
