"""Listeners whose backends stand in the configuration, in place of a service of the registry."""

from typing import Any

import pytest
from pydantic import ValidationError

from discovery import Backend
from discovery.testing import snapshot
from discovery_tcpproxy.config import TcpProxyConfig
from discovery_tcpproxy.targets import endpoints, services, settings, targets

WEB = Backend("web", "b1", "10.0.0.1", 80)
FIXED = "targets:web"


def config(**listeners: Any) -> TcpProxyConfig:
    return TcpProxyConfig.model_validate({"listen": listeners})


def test_fixed_targets_are_backends_in_the_given_order_without_the_registry() -> None:
    both = config(
        web={"bind": "127.0.0.1:8080", "targets": ["z.example:2", "10.0.0.9:1", "[FD00::0:1]:3"], "balance": "first"},
        other={"bind": "127.0.0.1:8081", "service": "web"},
    )
    contents = snapshot(WEB)
    assert sorted(services(both)) == [FIXED, "web"]
    assert endpoints(both, contents) == {("z.example", 2)}
    found, problems = targets(both, contents, {("z.example", 2): ("10.0.0.7",)})
    assert [(each.host, each.port, each.id, each.addresses) for each in found[FIXED]] == [
        ("z.example", 2, "z.example:2", ("10.0.0.7",)),
        ("10.0.0.9", 1, "10.0.0.9:1", ()),
        ("fd00::1", 3, "[fd00::1]:3", ()),
    ]
    assert [each.id for each in found["web"]] == ["b1"]
    assert problems == ()
    assert not any(each.draining for each in found[FIXED])
    told = settings(both, 0)
    assert (told["web"]["service"], told["web"]["balance"]) == (FIXED, "first")
    assert told["other"]["service"] == "web"


def test_a_fixed_target_without_addresses_is_left_out_and_is_a_problem() -> None:
    found, problems = targets(
        config(web={"bind": "127.0.0.1:1", "targets": ["no.example:1", "10.0.0.9:1"]}), snapshot(), {}
    )
    assert [each.id for each in found[FIXED]] == ["10.0.0.9:1"]
    (problem,) = problems
    assert "no.example" in problem


def test_a_single_fixed_target_needs_no_list() -> None:
    found, _ = targets(config(web={"bind": "127.0.0.1:1", "targets": "10.0.0.9:1"}), snapshot(), {})
    assert [each.id for each in found[FIXED]] == ["10.0.0.9:1"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"targets": ["10.0.0.9"]}, "'10.0.0.9' is not HOST:PORT"),
        ({"targets": ["10.0.0.9:0"]}, "port 0"),
        ({"targets": ["0.0.0.0:80"]}, "'0.0.0.0' is not an address that one can connect to"),
        ({"targets": [80]}, "Value error, 80 is not HOST:PORT"),
        ({"targets": ["a:1", "A:1"]}, "a:1 is given twice"),
        ({"targets": ["a:1"], "service": "web"}, "leave one out"),
    ],
)
def test_an_invalid_fixed_target_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        config(web={"bind": "127.0.0.1:1", **options})
