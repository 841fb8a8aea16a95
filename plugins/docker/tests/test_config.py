"""Valid and invalid options, and the errors of invalid options."""

from typing import Any

import pytest
from pydantic import ValidationError

from discovery import ConfigError
from discovery.daemon.faults import validate
from discovery.probes import HttpProbe, TcpProbe
from discovery_docker.config import DockerConfig, checks_of


def configured(**options: Any) -> DockerConfig:
    return DockerConfig.model_validate(options)


def test_one_value_may_stand_for_a_list() -> None:
    lone = configured(address="10.0.0.1", services="web", networks="a", port=80, names="x", images="y", labelled="z")
    several = configured(
        address=["10.0.0.1"], services=["web"], networks=["a"], port=[80], names=["x"], images=["y"], labelled=["z"]
    )
    assert lone == several


def test_there_is_no_check_unless_one_is_configured_and_its_default_type_is_http() -> None:
    def probe(**options: Any) -> object:
        (check,) = checks_of(configured(**options).check)
        return check.probe

    assert checks_of(configured().check) == checks_of(configured(check=False).check) == ()
    assert probe(check=True) == probe(check={"interval": 1}) == HttpProbe(status=((100, 499),))
    assert probe(check={"path": "/health"}) == HttpProbe("/health")
    assert probe(check={"status": "200"}) == HttpProbe(status=((200, 200),))
    assert probe(check={"type": "tcp"}) == TcpProbe()


def test_numbers_may_be_labels() -> None:
    assert configured(labels={"zone": "eu", "rack": 7}).labels == {"zone": "eu", "rack": "7"}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"address": "0.0.0.0"}, "not an address that other machines can connect to"),
        ({"address": ["10.0.0.1", "10.0.0.2"]}, "an IPv4 and an IPv6 address"),
        ({"address": ["10.0.0.1", "web.example"]}, "an IPv4 and an IPv6 address"),
        ({"weight": 300}, "300 is not a whole number from 0 to 256"),
        ({"weight": "load"}, "'load' is not a whole number from 0 to 256"),
        ({"url": "nonsense"}, "give unix:///PATH or tcp://HOST:PORT"),
        ({"url": "tcp://me:secret@h:1"}, "does not support: remove it"),
        ({"services": ["a b"]}, "'a b' is not a pattern"),
        ({"names": ["web\n"]}, "is not a pattern"),
        ({"port": 0}, "is not a whole number from 1 to 65535"),
        ({"service": "a b"}, "the service name 'a b'"),
        ({"id": "a b"}, "the id 'a b'"),
        ({"labels": {"a b": "c"}}, "the label name 'a b'"),
        ({"labels": {"a": True}}, "valid string"),
        ({"on_stop": "ignore"}, "'withdraw' or 'drain'"),
        ({"image": "httpd"}, "image"),
        ({"explicit": True, "conventions": False}, "without conventions the plugin does not read SERVICE_NAME"),
        ({"check": {"type": "tcp", "path": "/"}}, "path"),
        ({"check": {"path": "health"}}, "path"),
    ],
)
def test_an_invalid_option_is_named(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        configured(**options)
    told = "\n".join(f"{error['loc']} {error['msg']}" for error in caught.value.errors())
    assert complaint in told


def test_an_error_does_not_show_a_password() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(DockerConfig, {"url": "tcp://me:secret@h:1"}, "test.toml", ())
    assert "holds a user name" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_configuration_has_a_schema() -> None:
    properties = DockerConfig.model_json_schema()["properties"]
    for name, beginning in {
        "loopback": "Announce a port",
        "on_stop": "The action when",
        "weight": "The weight",
    }.items():
        assert properties[name]["description"].startswith(beginning)
