"""What a program cannot do is an error that names the option and the way out."""

from typing import Any

import pytest
from pydantic import ValidationError

from discovery_template.proxies.caddy import CaddyConfig
from discovery_template.proxies.httpd import HttpdConfig
from discovery_template.proxies.nginx import NginxConfig

ALL = (NginxConfig, HttpdConfig, CaddyConfig)
LATER = (HttpdConfig, CaddyConfig)


@pytest.mark.parametrize(
    ("models", "service", "message"),
    [
        (
            ALL,
            {"cookie": True},
            "'cookie' is an option of the consumer 'haproxy' alone: use the consumer 'haproxy'",
        ),
        (ALL, {"backend_lines": "x"}, "'backend_lines' is an option of the consumer 'haproxy' alone"),
        (ALL, {"bind": {"address": "127.0.0.1:1", "options": "ssl"}}, "'options' of a bind are HAProxy's own words"),
        (ALL, {"bind": {"address": "127.0.0.1:1", "accept_proxy": "10.0.0.0/8"}}, "'accept_proxy' is an option of"),
        (ALL, {"bind": {"address": "127.0.0.1:1", "certificate": ["/a", "/b"]}}, "a bind has one 'certificate' here"),
        (ALL, {"bind": "unix:/run/x.sock"}, "write 127.0.0.1:8080"),
        (ALL, {"balance": "rdp-cookie"}, "has no balance 'rdp-cookie'"),
        (ALL, {"balance": "fastest"}, "'fastest' is not a balance algorithm: roundrobin, leastconn"),
        (ALL, {"hosts": "a.com:80"}, "is not a host pattern"),
        (ALL, {"mode": "tcp", "path_prefix": "/x"}, "'path_prefix' needs mode = \"http\""),
        (LATER, {"mode": "tcp"}, 'has no mode = "tcp"'),
        ((NginxConfig,), {"mode": "tcp", "balance": "uri"}, 'needs mode = "http"'),
        (ALL, {"balance": "url_param x check_post"}, "has no balance 'url_param x check_post'"),
        (ALL, {"balance": "uri depth 2"}, "has no balance 'uri depth 2'"),
        (ALL, {"balance": "random(3)"}, "has no balance 'random(3)'"),
        (ALL, {"balance": "hdr(Ü)"}, "is not a balance algorithm"),
        ((NginxConfig,), {"balance": "url_param a.b"}, "a name for nginx has letters, digits and '_' alone"),
        ((NginxConfig,), {"balance": "hdr(X_Y)"}, "a name for nginx has letters, digits and '-' alone"),
        ((CaddyConfig,), {"path_prefix": "/a%20b"}, "which Caddy compares after decoding"),
        ((NginxConfig,), {"balance": "first"}, "nginx has no balance 'first'"),
        ((NginxConfig,), {"check": True}, "nginx has no active health checks: leave 'check' out"),
        ((NginxConfig, HttpdConfig), {"path_prefix": "/a%20b"}, "compares after decoding"),
        ((HttpdConfig,), {"balance": "source"}, "httpd has no balance 'source'"),
        ((HttpdConfig,), {"check": {"path": "/", "status": 200}}, "the option 'status' of 'check' is unknown to httpd"),
        ((HttpdConfig,), {"check": {"path": "/", "method": "POST"}}, "httpd checks by GET, HEAD, OPTIONS, not by POST"),
        ((CaddyConfig,), {"check": True}, "Caddy checks by HTTP alone: give 'check' a 'path'"),
        ((CaddyConfig,), {"check": {"path": "/", "status": "200,301"}}, "Caddy expects one status or one class"),
        ((CaddyConfig,), {"check": {"path": "/", "port": {"label": "x"}}}, "the 'port' of Caddy's check is a number"),
        ((CaddyConfig,), {"check": {"path": "/", "port": 65536}}, "the 'port' of Caddy's check is a number"),
        ((HttpdConfig,), {"check": {"method": "HEAD"}}, "'method' is for an HTTP check: give it a 'path'"),
    ],
)
def test_an_option_that_the_program_lacks_is_refused(models: tuple[Any, ...], service: Any, message: str) -> None:
    for model in models:
        with pytest.raises(ValidationError) as caught:
            model.model_validate({"services": {"web": service}})
        assert message in str(caught.value)


@pytest.mark.parametrize("model", [NginxConfig, HttpdConfig])
def test_hosts_that_overlap_in_part_are_refused_unless_one_takes_every_path(model: Any) -> None:
    services: dict[str, Any] = {"a": {"hosts": "*.a.com", "path_prefix": "/p"}, "b": {"hosts": "x.*"}}
    with pytest.raises(ValidationError, match=r"the hosts '\*\.a\.com' and 'x\.\*' overlap on 127\.0\.0\.1:8080"):
        model.model_validate({"services": services})
    model.model_validate({"services": {**services, "c": {"hosts": "*.com"}}})
    CaddyConfig.model_validate({"services": services})


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ({"options": "ssl"}, "bind 127.0.0.1:1: 'options' of a bind are HAProxy's own words"),
        ({"accept_proxy": "10.0.0.0/8"}, "bind 127.0.0.1:1: 'accept_proxy' is an option of"),
        ({"certificate": ["/a", "/b"]}, "bind 127.0.0.1:1: a bind has one 'certificate' here"),
    ],
)
def test_a_bind_of_the_instance_is_refused_as_one_of_a_service(model: Any, bind: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate({"bind": {"address": "127.0.0.1:1", **bind}})


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("other", ["127.0.0.1:1", {"address": "127.0.0.1:1", "certificate": "/b"}])
def test_services_with_different_certificates_on_one_address_are_refused(model: Any, other: Any) -> None:
    binds = {"a": {"address": "127.0.0.1:1", "certificate": "/a"}, "b": other}
    services = {name: {"bind": bind, "hosts": name} for name, bind in binds.items()}
    with pytest.raises(ValidationError, match=r"'a' and service 'b' share 127\.0\.0\.1:1, but not the same 'cert"):
        model.model_validate({"services": services})
    services["b"]["bind"] = binds["a"]
    model.model_validate({"services": services})


def test_a_certificate_of_the_instance_is_no_fault_of_a_tcp_service_with_a_bind_of_its_own() -> None:
    tcp = {"mode": "tcp", "bind": "127.0.0.1:2"}
    NginxConfig.model_validate({"bind": {"address": "127.0.0.1:1", "certificate": "/a"}, "services": {"tcp": tcp}})


def test_services_that_take_the_same_requests_are_refused() -> None:
    for model in ALL:
        with pytest.raises(ValidationError, match="both take everything on"):
            model.model_validate({"services": {"a": {}, "b": {}}})
