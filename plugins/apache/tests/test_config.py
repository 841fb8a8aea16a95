"""Valid and invalid options, and the errors of invalid options."""

from typing import Any

import pytest
from pydantic import ValidationError

from discovery import ConfigError
from discovery.daemon.faults import validate
from discovery.probes import HttpProbe, TcpProbe
from discovery_apache.config import AnnouncedAddress, ApacheConfig
from discovery_docker.api import checks_of


def configured(**options: Any) -> ApacheConfig:
    return ApacheConfig.model_validate(options)


def test_docker_is_on_unless_only_local_servers_are_configured() -> None:
    assert configured().docker is not None
    assert configured(docker=True) == configured()
    assert configured(httpd={"main": {}}).docker is None
    assert configured(httpd={"main": {}}, docker=True).docker is not None
    assert configured(httpd={"main": {}}, docker={"port": 80}).docker is not None
    assert configured(httpd={"main": {}}, docker=False).docker is None


def test_one_value_may_stand_for_a_list() -> None:
    lone = configured(
        address="10.0.0.1", services="web", networks="a", docker={"port": 80, "names": "x", "images": "y"}
    )
    several = configured(
        address=["10.0.0.1"], services=["web"], networks=["a"], docker={"port": [80], "names": ["x"], "images": ["y"]}
    )
    assert lone == several


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("10.0.0.1:8080", AnnouncedAddress(host="10.0.0.1", port=8080)),
        ("[::1]:80", AnnouncedAddress(host="::1", port=80)),
        ("web.example:80", AnnouncedAddress(host="web.example", port=80)),
        (":8080", AnnouncedAddress(port=8080)),
        (8080, AnnouncedAddress(port=8080)),
        ({"host": "10.0.0.1"}, AnnouncedAddress(host="10.0.0.1", port=80)),
    ],
)
def test_the_forms_of_a_local_servers_address(written: object, means: AnnouncedAddress) -> None:
    assert configured(httpd={"main": {"address": written}}).httpd["main"].address == means


def test_the_default_type_of_a_check_is_http() -> None:
    def probe(**options: Any) -> object:
        (check,) = checks_of(configured(**options).check)
        return check.probe

    assert probe() == probe(check={"interval": 1}) == HttpProbe(status=((100, 499),))
    assert probe(check={"path": "/health"}) == HttpProbe("/health")
    assert probe(check={"status": "200"}) == HttpProbe(status=((200, 200),))
    assert probe(check={"type": "tcp"}) == TcpProbe()
    assert checks_of(configured(check=False).check) == ()
    assert configured(check=True).check == configured().check
    assert configured(httpd={"main": {}}).httpd["main"].check.checks() == ()


def test_numbers_may_be_labels() -> None:
    assert configured(docker={"labels": {"zone": "eu", "rack": 7}}).docker.labels == {"zone": "eu", "rack": "7"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"docker": False}, "there is nothing to register"),
        ({"address": "0.0.0.0"}, "not an address that other machines can connect to"),
        ({"address": ["10.0.0.1", "10.0.0.2"]}, "an IPv4 and an IPv6 address"),
        ({"address": ["10.0.0.1", "web.example"]}, "an IPv4 and an IPv6 address"),
        ({"weight": "load"}, "set docker.status"),
        ({"weight": 300}, "300 is not a whole number from 0 to 256, nor \"load\""),
        ({"weight": "lod"}, "'lod' is not a whole number from 0 to 256, nor \"load\""),
        ({"docker": {"url": "nonsense"}}, "give unix:///PATH or tcp://HOST:PORT"),
        ({"docker": {"url": "tcp://me:secret@h:1"}}, "does not support: remove it"),
        ({"services": ["a b"]}, "'a b' is not a pattern"),
        ({"docker": {"names": ["web\n"]}}, "is not a pattern"),
        ({"docker": {"port": 0}}, "is not a whole number from 1 to 65535"),
        ({"docker": {"service": "a b"}}, "the service name 'a b'"),
        ({"docker": {"id": "a b"}}, "the id 'a b'"),
        ({"docker": {"labels": {"a b": "c"}}}, "the label name 'a b'"),
        ({"docker": {"labels": {"a": True}}}, "valid string"),
        ({"docker": {"status": "server-status"}}, "is not a path that begins with '/'"),
        ({"docker": {"status": "/a b"}}, "is not a path that begins with '/'"),
        ({"docker": {"on_stop": "ignore"}}, "'withdraw' or 'drain'"),
        ({"docker": {"image": "httpd"}}, "image"),
        ({"httpd": {"a b": {}}}, "the service name 'a b'"),
        ({"httpd": {"a": {"status": "/server-status"}}}, "is not the URL of a status page"),
        ({"httpd": {"a": {"status": "http://me:secret@h/s"}}}, "holds a user name"),
        ({"httpd": {"a": {"status": "http://h:99999/s"}}}, "is not the URL of a status page"),
        ({"httpd": {"a": {"status": "file:///etc/passwd"}}}, "is not the URL of a status page"),
        ({"httpd": {"a": {"address": "80"}}}, "':PORT' stands for this machine's own address"),
        ({"httpd": {"a": {"address": ":99999"}}}, "is not a whole number from 1 to 65535"),
        ({"check": {"type": "tcp", "path": "/"}}, "path"),
        ({"check": {"path": "health"}}, "path"),
    ],
)  # fmt: skip
def test_an_invalid_option_is_named(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        configured(**options)
    told = "\n".join(f"{error['loc']} {error['msg']}" for error in caught.value.errors())
    assert complaint in told


@pytest.mark.parametrize(
    "options", [{"httpd": {"a": {"status": "http://me:secret@h/s"}}}, {"docker": {"url": "tcp://me:secret@h:1"}}]
)
def test_an_error_does_not_show_a_password(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(ApacheConfig, options, "test.toml", ())
    assert "holds a user name" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_configuration_has_a_schema() -> None:
    schema = ApacheConfig.model_json_schema()
    assert "docker" in schema["properties"]
    assert {"type": "integer", "minimum": 0, "maximum": 256} in schema["properties"]["weight"]["anyOf"]
    assert schema["properties"]["loopback"]["description"].startswith("Announce a port")
    assert schema["$defs"]["DockerConfig"]["properties"]["on_stop"]["description"].startswith("The action when")
