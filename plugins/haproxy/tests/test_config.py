"""Options: accepted values, refused values and the messages."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.options.values import bind_address

EXAMPLES = Path(__file__).parents[3] / "examples" / "haproxy"


def web(**options: object) -> dict[str, Any]:
    """Return a configuration with the service `web`."""
    return {"services": {"web": options}}


def slots(**options: object) -> dict[str, Any]:
    """Return a configuration for slots."""
    return {"external": {"slots": True, "stats_socket": "/x", **options}}


def fragment(**options: object) -> dict[str, Any]:
    """Return a configuration for a fragment."""
    return {"external": {"fragment": "/x", "files": ["/y"], "systemd_unit": "haproxy"}, **options}


def external(**options: object) -> dict[str, Any]:
    """Return a configuration for an external HAProxy."""
    return {"external": {"path": "/x", "systemd_unit": "haproxy", **options}}


def two(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with two services on the same address."""
    return {"services": {"one": {"bind": "*:80", **one}, "other": {"bind": "*:80", **other}}}


@pytest.mark.parametrize(
    ("written", "means"), [("*:80", "0.0.0.0:80"), ("/run/web.sock", "/run/web.sock"), ("unix:/a", "/a")]
)
def test_an_address_is_written_in_haproxys_form(written: str, means: str) -> None:
    (bind,) = HAProxyConfig.model_validate({"bind": written}).bind
    assert bind.address == bind_address(written) == means


@pytest.mark.parametrize("written", ["/a b", "/" + "x" * 101, "unix:/a;b", "${HOME}:80", "127.0.0.1:80 ssl"])
def test_an_address_of_several_words_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="write|path"):
        bind_address(written)


@pytest.mark.parametrize(
    ("written", "means"),
    [("500ms", "500ms"), ("60s", "1m"), (3, "3s"), (0.5, "500ms"), ("1.0004s", "1s"), ("1m30s", "90s"), ("24d", "24d")],
)
def test_a_duration_is_written_in_haproxys_form(written: object, means: str) -> None:
    assert HAProxyConfig.model_validate({"hard_stop_after": written}).hard_stop_after == means


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (web(bind=8080), "8080 is a port alone: write 127.0.0.1:8080 for this machine alone"),
        (web(bind=["*:80", 8080]), "8080 is a port alone: write 127.0.0.1:8080 for this machine alone"),
        (web(bind=True), "a bind is an address such as 127.0.0.1:8080, or a table"),
        (web(bind=[3.5]), "a bind is an address such as 127.0.0.1:8080, or a table"),
        (web(bind="8080"), "'8080' is not HOST:PORT"),
        (web(bind=[]), "the list of addresses is empty"),
        (web(bind=["*:80", "0.0.0.0:80"]), "service 'web' names 0.0.0.0:80 twice"),
        (web(bind={"address": "*:443", "cert": "x"}), "cert"),
        (web(mode="https"), "'http' or 'tcp'"),
        (web(balance="fastest"), "'fastest' is not a balance algorithm"),
        (web(balance="uri", mode="tcp"), "'uri' needs mode = \"http\""),
        (web(mode="tcp", path_prefix="/a"), "'path_prefix' needs mode = \"http\""),
        (web(mode="tcp", cookie="S"), "'cookie' needs mode = \"http\""),
        (web(mode="tcp", forward_for=True), "'forward_for' needs mode = \"http\""),
        (web(mode="tcp", basic_auth="/users"), "'basic_auth' needs mode = \"http\""),
        (web(basic_auth={"users_file": "/users", "realm": 'a"b'}), "'a\"b' is not a realm"),
        (web(basic_auth={"realm": "a"}), "users_file"),
        ({"stats": {"users_file": "/users"}}, "address"),
        ({**web(bind="*:80"), "stats": {"address": "*:80"}}, "service 'web' and 'stats' both bind 0.0.0.0:80"),
        (web(redirect_https=True), "'web' redirects to https, but has no bind with a 'certificate'"),
        (web(redirect_https="yes"), "redirect_https"),
        (
            web(redirect_https=8443, bind=["127.0.0.1:8080", "127.0.0.1:8443"]),
            "service 'web' redirects to https on port 8443, but its bind 127.0.0.1:8443 has no 'certificate'",
        ),
        (
            web(redirect_https=8443, bind=["*:8443", {"address": "127.0.0.1:9443", "certificate": "/x"}]),
            "service 'web' redirects to https on port 8443, but its bind 0.0.0.0:8443 has no 'certificate'",
        ),
        (web(redirect_https=0), "0 is not a whole number from 1 to 65535"),
        (web(mode="tcp", redirect_https=443), "'redirect_https' needs mode = \"http\""),
        (web(hsts=True), "'hsts' of service 'web' has no effect without a bind with a 'certificate'"),
        (web(hsts="soon"), "'soon' is not a duration"),
        (web(hsts={"max_age": "1d", "preload": True}), "'preload' needs include_subdomains = true"),
        (web(response_headers={"X": "a\r\nY: b"}), "is not a header's value"),
        (web(response_headers={"X": ""}), "is not a header's value"),
        (web(response_headers={"X Y": "a"}), "is not a header's name"),
        (web(response_headers={"X": True}), "true is not the value of a header: write text, or false to remove it"),
        (web(response_headers={"X": 1}), "1 is not the value of a header"),
        (web(response_headers={"content-length": "1"}), "'content-length' cannot be set"),
        (web(response_headers={"X": "1", "x": "2"}), "a header is named twice"),
        (web(cookie={"same_site": "none"}), "needs secure = true: browsers refuse the cookie otherwise"),
        (web(cookie={"same_site": "Lax"}), "'strict', 'lax' or 'none'"),
        (web(cookie={"domain": "localhost"}), "'localhost' is not the domain of a cookie"),
        (web(cookie={"domain": "a.b; Secure"}), "is not the domain of a cookie"),
        (web(cookie={"max_age": "500d"}), "'500d' is not a duration from 1s to 400d"),
        (web(mode="tcp", sorry_page="/x"), "'sorry_page' needs mode = \"http\""),
        (web(hosts="a b"), "'a b' is not a host pattern"),
        (web(hosts="a:80"), "(without a port)"),
        (web(hosts="*.a.*"), "'*.a.*' is not a host pattern"),
        (web(path_prefix="api"), "'api' is not a path that begins with '/'"),
        (web(check={"status": 200}), "'status' is for an HTTP check: give it a 'path'"),
        (web(check={"path": "/", "status": "2xx"}), "'2xx' is not an HTTP status"),
        (web(check={"path": "/\r\nX: y"}), "path that begins with '/'"),
        (web(check={"send": "PING"}), "'send' has no effect without 'expect'"),
        (web(check={"path": "/", "expect": "ok"}), "'send' and 'expect' are for a TCP check"),
        (web(check={"expect": ""}), "at least 1 character"),
        (web(check={"expect": "x" * 401}), "at most 400 characters"),
        (web(check={"init_state": "fully-down"}), "'up' or 'down'"),
        (
            {**web(check={"init_state": "down"}), "external": {"path": "/x", "systemd_unit": "haproxy"}},
            "'init_state' of service 'web' needs a managed HAProxy",
        ),
        (web(check={"path": "/", "fall": 0}), "0 is not a whole number from 1 to 1000"),
        (web(timeouts={"server": "soon"}), "'soon' is not a duration from 1ms to 24d"),
        (web(timeouts={"servers": "1s"}), "servers"),
        (web(maxconn=0), "0 is not a whole number from 1 to 10000000"),
        (web(cookie="a b"), "'a b' is not a cookie's name"),
        (web(send_proxy="v3"), "'v1' or 'v2'"),
        ({"access_log": "stdout"}, "'stdout' is a stream of the daemon, which HAProxy outlives: write true"),
        ({"access_log": "fd@1"}, "'fd@1' is a stream of the daemon"),
        ({"access_log": "*:514"}, "'*:514' is not true, false or the address of a syslog server: write 127.0.0.1:514"),
        ({"access_log": 514}, "514 is not true, false or the address of a syslog server"),
        ({"access_log": "/run/a b"}, "or the path of a Unix socket such as /dev/log"),
        ({"log_format": "%ci"}, "'log_format' is for the access log: set 'access_log', too"),
        (web(log_format="%ci"), "'log_format' is for the access log: set 'access_log', too"),
        ({"access_log": True, "log_format": "a\nb"}, "is not a log format: one line"),
        ({"access_log": True, "log_format": ""}, "is not a log format: one line"),
        ({"access_log": True, "log_format": "%ci" * 2000}, "is not a log format: one line of 1 to 4096"),
        (
            {"access_log": True, **two({"hosts": "a", "log_format": "%ci"}, {})},
            "'one' and 'other' share 0.0.0.0:80, but not the same 'log_format'",
        ),
        (web(backend_lines="a\nserver evil 127.0.0.1:1"), "is more than one line"),
        (web(frontend_lines=["ok", " "]), "the line is empty"),
        (web(server_options="ssl\rcheck"), "is more than one line"),
        (web(backend_lines="frontend x"), "would begin a new section"),
        (web(backend_lines="'frontend' x"), "would begin a new section"),
        ({"global_lines": "description mine"}, "conflicts with a line that the plugin writes"),
        ({"global_lines": "defaults"}, "would begin a new section"),
        ({"services": {"a b": {}}}, "the service name 'a b' is not valid: a name has 1-128 letters"),
        ({"nameservers": ["dns"]}, "is not HOST:PORT"),
        ({"hard_stop_after": "never"}, "'never' is not a duration from 1ms to 24d"),
        ({"external": {"path": "/x"}}, "exactly one of 'master_socket', 'systemd_unit' and 'command'"),
        (external(fragment="/y"), "exactly one of 'path' (the whole configuration), 'fragment'"),
        (external(files=["/y"]), "'files' is for 'fragment'"),
        ({"external": {"slots": True}}, "'slots' needs 'stats_socket'"),
        (external(state_file="/y"), "'state_file' is for 'slots'"),
        (slots(systemd_unit="a"), "'systemd_unit' has no effect with 'slots'"),
        ({**slots(), "retries": 2}, "'retries' has no effect with 'slots'"),
        ({**slots(), **web(balance="first")}, "'balance' has no effect with 'slots'"),
        ({"external": {"fragment": "/x", "systemd_unit": "a"}}, "'fragment' needs 'files'"),
        (fragment(global_lines="nbthread 2"), "'global_lines' belongs into your own files"),
        (fragment(services={"web": {"hosts": "a.example"}}), "'hosts' of service 'web' needs a 'bind'"),
        ({"external": {"path": "/x", "systemd_unit": "a", "command": ["b"]}}, "exactly one of"),
        ({"external": {"path": "/x", "systemd_unit": "a; reboot"}}, "pattern"),
        ({"external": {"path": "/x", "command": "reload"}}, "valid tuple"),
        (external(validate="remote"), "'remote' is not a check: write \"local\", \"none\", or a program as a list"),
        (external(validate=[]), "the list is empty: write a program with its arguments"),
        (external(validate=["haproxy", 1]), "valid string"),
        (two({}, {}), "services 'one' and 'other' both take everything on 0.0.0.0:80"),
        (two({"hosts": "A.b"}, {"hosts": ["c", "a.B"]}), "'one' and 'other' both take host 'a.b', path '/'"),
        (two({"path_prefix": "/a"}, {"path_prefix": "/a/"}), "'one' and 'other' both take host '*', path '/a'"),
        (two({"hosts": "a"}, {"mode": "tcp"}), "but only 'other' is in tcp mode: give each a 'bind' of its own"),
        (two({"mode": "tcp"}, {"mode": "tcp"}), "both take everything on 0.0.0.0:80: give them different 'hosts', or"),
        (two({"mode": "tcp", "hosts": "a"}, {"mode": "tcp", "hosts": ["A", "b"]}), "both take host 'a' on 0.0.0.0:80"),
        (two({"hosts": "a"}, {"maxconn": 5}), "'other' sets 'maxconn', which limits a whole frontend"),
        (
            two({"hosts": "a", "bind": {"address": "*:80", "accept_proxy": "10.0.0.0/8"}}, {}),
            "not the same 'accept_proxy'",
        ),
        (two({"hosts": "a", "bind": {"address": "*:80", "accept_proxy": True}}, {}), "name the networks"),
        (
            web(bind={"address": "*:80", "accept_proxy": "10.0.0.0/8", "options": "defer-accept name edge"}),
            "'name' in 'options' conflicts with 'accept_proxy'",
        ),
        (
            web(bind={"address": "*:80", "accept_proxy": "10.0.0.0/8", "options": "'na'me edge"}),
            "'name' in 'options' conflicts with 'accept_proxy'",
        ),
        (
            web(bind={"address": "*:80", "accept_proxy": "10.0.0.0/8", "options": "accept-proxy"}),
            "'accept-proxy' in 'options' conflicts with 'accept_proxy'",
        ),
        ({"services": {"one": {}, "other": {}}}, "both take everything on 127.0.0.1:8080"),
        ({**web(bind="*:80"), "stats": "0.0.0.0:80"}, "service 'web' and 'stats' both bind 0.0.0.0:80"),
    ],
)  # fmt: skip
def test_an_invalid_configuration_is_refused(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HAProxyConfig.model_validate(config)
    assert complaint in "\n".join(f"{error['loc']} {error['msg']}" for error in caught.value.errors())


def test_the_services_of_a_fragment_listen_nowhere_by_default() -> None:
    config = HAProxyConfig.model_validate(fragment(services={"web": {}}))
    assert (
        config.bind
        == ()
        == HAProxyConfig.model_validate(config.model_dump(mode="json", exclude_unset=True, by_alias=True)).bind
    )


def test_a_single_value_stands_for_a_list() -> None:
    lone = web(bind="*:80", hosts="a", path_prefix="/b", backend_lines="x y", check=True)
    several = web(bind=[{"address": "*:80"}], hosts=["a"], path_prefix=["/b"], backend_lines=["x y"], check={})
    assert HAProxyConfig.model_validate(lone) == HAProxyConfig.model_validate(several)
    assert HAProxyConfig.model_validate(web(check=False)).services["web"].check is None


def test_a_bind_without_accept_proxy_may_have_a_name() -> None:
    HAProxyConfig.model_validate(web(bind={"address": "*:80", "options": "name edge"}))
    kept = {"address": "*:80", "accept_proxy": "10.0.0.0/8", "options": "namespace blue # name"}
    HAProxyConfig.model_validate(web(bind=kept))


def test_services_share_an_address_when_they_differ_in_host_or_path() -> None:
    HAProxyConfig.model_validate(two({"hosts": "a"}, {}))
    HAProxyConfig.model_validate(two({"path_prefix": "/a"}, {"path_prefix": ["/", "/b"]}))
    HAProxyConfig.model_validate(two({"hosts": "a", "path_prefix": "/x"}, {"hosts": "a"}))


@pytest.mark.costly
def test_the_json_schema_contains_the_short_forms() -> None:
    schema = HAProxyConfig.model_json_schema()
    bind = schema["$defs"]["ServiceConfig"]["properties"]["bind"]
    assert {"type": "string"} in bind["anyOf"] or any(
        {"type": "string"} in one.get("anyOf", ()) for one in bind["anyOf"]
    )


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_the_examples_are_valid(example: Path) -> None:
    document = tomllib.loads(example.read_text())
    consumers = [c for c in document["consumers"].values() if c.pop("plugin") == "haproxy"]
    assert consumers
    for consumer in consumers:
        HAProxyConfig.model_validate(consumer)


@pytest.mark.parametrize(
    ("options", "place", "message"),
    [
        (web(check={"port": True}), "port", "true is not a port to check"),
        (web(check={"port": 0}), "port", "0 is not a port to check"),
        (web(check={"port": 65536}), "port", "65536 is not a port to check"),
        (web(check={"port": {"lable": "x"}}), "port", "or the label that has it"),
        (web(response_headers={"X": ""}), "X", "is not a header's value in ASCII, without spaces around"),
        (web(response_headers={"X": "a\nb"}), "X", "is not a header's value in ASCII, without spaces around"),
        (web(maxconn=True), "maxconn", "true is not a whole number"),
        (web(server_maxconn=True), "server_maxconn", "true is not a whole number"),
        ({"retries": True}, "retries", "true is not a whole number"),
    ],
)
def test_wrong_value_is_one_fault_at_its_own_key(options: dict[str, Any], place: str, message: str) -> None:
    """An option with several types has no fault for each type, and `true` is not the number 1."""
    with pytest.raises(ValidationError) as caught:
        HAProxyConfig(**options)
    (fault,) = caught.value.errors()
    assert fault["loc"][-1] == place
    assert message in fault["msg"]
