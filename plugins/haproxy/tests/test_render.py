"""Configuration and snapshot to text: what it says, that it is deterministic, and that real HAProxy takes it."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import trustme
from haproxy_web import Parse
from hypothesis import given
from hypothesis import strategies as st

from discovery import ApplyError, Backend, Snapshot, State
from discovery.testing import backend, snapshot
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Rendered, Runtime, referenced_files, render

TWO = snapshot(backend(port=8001), backend(port=8002, host="web.invalid"))


def rendered(config: dict[str, Any] | None = None, of: Snapshot = TWO, runtime: Runtime | None = None) -> Rendered:
    """Render a configuration for a snapshot."""
    return render(HAProxyConfig.model_validate(config or {}), of, runtime or Runtime(), {})


def section(text: str, name: str) -> list[str]:
    """The lines of the section with this header."""
    found = [part for part in text.split("\n\n") if part.startswith(f"{name}\n")]
    assert len(found) == 1, text
    return [line.strip() for line in found[0].splitlines()[1:]]


def own(tmp_path: Path, template: str, **config: object) -> dict[str, Any]:
    """Return a configuration with a user's own template."""
    path = tmp_path / "own.cfg.j2"
    path.write_text(template)
    return {"template": str(path), **config}


def test_a_service_becomes_a_frontend_and_a_backend_with_checks_on() -> None:
    text = rendered({"services": {"web": {"bind": "*:80"}}}).text
    assert section(text, "frontend frontend:web") == [
        "mode http",
        "option idle-close-on-response",
        "bind 0.0.0.0:80",
        "default_backend web",
    ]
    assert section(text, "backend web") == [
        "mode http",
        "retry-on conn-failure empty-response",
        "http-request disable-l7-retry unless METH_GET",
        "balance roundrobin",
        "timeout check 1s",
        "default-server inter 2s fastinter 500ms fall 3 rise 2 check",
        "server 127.0.0.1:8001 127.0.0.1:8001 id 544299 weight 1",
        "server web.invalid:8002 web.invalid:8002 id 755393 weight 1",
    ]
    assert "option redispatch 1" in section(text, "defaults")
    assert "default-server init-addr last,none" in section(text, "defaults")


EVERYTHING: dict[str, Any] = {
    "services": {
        "web": {
            "bind": [
                "127.0.0.1:8080",
                {"address": "[::1]:8443", "accept_proxy": ["10.0.0.0/8", "fd00::/8", "unix"], "options": "v6only"},
            ],
            "hosts": ["example.com", "*.example.com", "web.*"],
            "path_prefix": ["/", "/shop%20two"],
            "balance": "uri depth 3",
            "check": {"path": "/health?a=b#c", "method": "HEAD", "host": "h:1", "status": [200, "301-302"], "port": 9},
            "timeouts": {"client": "2m", "server": 5, "queue": "1s", "tunnel": "2h", "http_request": "15s"},
            "server_maxconn": 50,
            "cookie": {"name": "S", "secure": True},
            "send_proxy": "v2",
            "frontend_lines": "http-request set-header X-Forwarded-Proto https if { ssl_fc }",
            "backend_lines": ["option forwardfor", "http-reuse always"],
            "server_options": "slowstart 10s",
        },
        "api": {"bind": "127.0.0.1:8080", "path_prefix": "/api", "balance": "leastconn", "send_proxy": "v1"},
        "rest": {"bind": "127.0.0.1:8080", "check": {"interval": "500ms"}, "balance": "random(3)"},
        "db": {
            "mode": "tcp",
            "bind": {"address": "/tmp/db.sock", "accept_proxy": "unix"},
            "maxconn": 3,
            "check": False,
            "balance": "source",
        },
        "mail": {"mode": "tcp", "bind": "*:25", "send_proxy": "v1", "check": {"path": "/"}},
    },
    "stats": "127.0.0.1:8404",
    "max_old_workers": 3,
    "access_log": True,
    "maxconn": 1000,
    "nameservers": ["10.0.0.53:53", "[::1]:53"],
    "timeouts": {"connect": "1s"},
    "global_lines": ["nbthread 1"],
    "defaults_lines": ["option tcp-smart-connect"],
}


@pytest.mark.parametrize(
    "config", [{}, EVERYTHING, {"services": {"web": {"bind": "*:80"}}}], ids=["bare", "all", "one"]
)
@pytest.mark.parametrize(
    "of", [snapshot(), TWO, snapshot(*TWO.backends(), backend("db"))], ids=["none", "two", "three"]
)
def test_haproxy_accepts_the_configuration_without_a_warning(
    parse: Parse, tmp_path: Path, config: dict[str, Any], of: Snapshot
) -> None:
    state = tmp_path / "a state"
    state.write_text("1\n")
    runtime = Runtime(tmp_path / "a socket", (2, 6), state, peers_socket=tmp_path / "another socket")
    assert parse(rendered(config, of, runtime)) == ""


def servers(text: str) -> list[str]:
    """Return the server lines of the backend section `web`, without their ids."""
    lines = [line for line in section(text, "backend web") if line.startswith("server ")]
    return [re.sub(r" id \d+", "", line) for line in lines]


def test_a_server_has_the_first_address_and_without_one_it_is_in_maintenance(parse: Parse) -> None:
    """Point 8."""
    addresses = {"a.test": ("10.0.0.1", "fd00::1"), "b.test": ("fd00::2",), "c.test": ()}
    of = snapshot(*(backend(id=host[0], host=host) for host in addresses))
    result = render(HAProxyConfig(), of, Runtime(), {}, lambda each: addresses[each.host])
    assert servers(result.text) == [
        "server a 10.0.0.1:8080 weight 1",
        "server b [fd00::2]:8080 weight 1",
        "server c c.test:8080 weight 1 disabled",
    ]
    assert result.mappings == ("web  http 127.0.0.1:8080 -> 3 backends, 1 without an address",)
    assert parse(result) == ""


@pytest.mark.parametrize(
    ("address", "resolved"),
    [
        ("10.0.0.1:80", False),
        ("[fd00::1]:80", False),
        ("a.test:80", True),
        ("10.test:80", True),
        ("unix@/run/a.sock", True),
    ],
)
def test_servers_of_a_template_have_resolvers_only_if_one_has_a_host_name(
    tmp_path: Path, address: str, resolved: bool
) -> None:
    template = tmp_path / "mine.cfg.j2"
    template.write_text(f"defaults\nbackend b\n server s {address} check\n")
    text = render(HAProxyConfig.model_validate({"template": template}), TWO, Runtime()).text
    assert ("init-addr last,none resolvers discovery" in text) == resolved


@pytest.mark.parametrize("asked", [{"resolve": "haproxy"}, {"nameservers": ["10.0.0.53:53"]}])
def test_haproxy_looks_host_names_up_if_configured(parse: Parse, asked: dict[str, Any]) -> None:
    """Point 8: several backends of one name, and an outage of DNS, as well."""
    config = HAProxyConfig.model_validate(asked)
    text = render(config, TWO, Runtime(), {}, lambda _: ("10.0.0.9",)).text
    assert servers(text) == [
        "server 127.0.0.1:8001 127.0.0.1:8001 weight 1",
        "server web.invalid:8002 web.invalid:8002 weight 1 resolvers discovery resolve-opts allow-dup-ip",
    ]
    assert "hold timeout 1d" in section(text, "resolvers discovery")
    assert parse(text) == ""


def test_haproxy_starts_without_resolv_conf(parse: Parse) -> None:
    text = rendered(runtime=Runtime(resolv_conf=False)).text
    assert "parse-resolv-conf" not in text  # HAProxy would end if there is none
    assert "has no nameservers configured" in parse(text)


def test_certificates_with_special_characters_in_their_names_share_a_bind(parse: Parse, tmp_path: Path) -> None:
    certificates = []
    for name in ("a b.pem", "c#'\".pem"):
        certificates.append(tmp_path / name)
        certificate = trustme.CA().issue_cert(f"{name[0]}.example")
        certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / name)
    bind = [{"address": "*:443", "certificate": str(path)} for path in certificates]
    config = {"services": {"a": {"bind": bind[0], "hosts": "a"}, "b": {"bind": bind[1]}}}
    result = rendered(config)
    assert parse(result) == ""
    assert result.text.count(" crt ") == 2
    assert set(result.files) == set(certificates)


def test_a_configured_service_is_the_only_one_served() -> None:
    result = rendered({"services": {"web": {"bind": "*:80"}}}, snapshot(backend("web"), backend("other")))
    assert "other" not in result.text
    assert result.mappings == ("web  http 0.0.0.0:80 -> 1 backend",)


def test_every_route_has_a_mapping() -> None:
    result = rendered(EVERYTHING)
    assert "web  http 127.0.0.1:8080 *.example.com/shop%20two -> 2 backends" in result.mappings
    assert "db  tcp /tmp/db.sock -> 0 backends" in result.mappings
    assert result.binds == (
        "/tmp/db.sock", "0.0.0.0:25", "127.0.0.1:8080", "127.0.0.1:8404", "[::1]:8443",
    )  # fmt: skip


def test_a_shared_frontend_has_the_longest_timeouts_of_its_services() -> None:
    services = {
        "one": {"hosts": "a", "timeouts": {"client": "90s"}},
        "two": {"hosts": "b", "timeouts": {"client": "2m"}},
        "three": {},
    }
    front = section(rendered({"services": services}).text, "frontend frontend:127.0.0.1:8080")
    assert [line for line in front if "timeout" in line] == ["timeout client 2m"]


def test_draining_and_weightless_backends_get_weight_zero() -> None:
    backends = [backend(port=1, state=State.DRAINING, weight=9), backend(port=2, weight=0), backend(port=3, weight=256)]
    lines = section(rendered(of=snapshot(*backends)).text, "backend web")[-3:]
    assert [line.split()[-1] for line in lines] == ["0", "0", "256"]


def test_ids_that_haproxy_refuses_get_unique_names() -> None:
    odd = rendered(of=snapshot(backend(id="a@b"))).text
    name = section(odd, "backend web")[-1].split()[1]
    assert name.startswith("a_b-")
    servers = section(rendered(of=snapshot(backend(id="a@b"), backend(id=name), backend(id="a_b"))).text, "backend web")
    names = [line.split()[1] for line in servers if line.startswith("server")]
    assert name in names
    assert "a_b" in names
    assert len(set(names)) == 3


def test_a_cookie_does_not_tell_clients_an_address() -> None:
    config = {"services": {"web": {"bind": "*:80", "cookie": "S"}}}
    server = section(rendered(config).text, "backend web")[-1]
    assert server.split()[-2] == "cookie"
    assert "8002" not in server.split()[-1]


@given(order=st.randoms(use_true_random=False))
def test_the_text_does_not_depend_on_any_order(order: random.Random) -> None:
    backends = [backend(service, port=port) for service in ("a", "b", "c") for port in (1, 2, 3)]
    services = list(EVERYTHING["services"].items())
    expected = rendered(EVERYTHING, Snapshot.of(1, backends)), rendered({}, Snapshot.of(1, backends))
    order.shuffle(backends)
    order.shuffle(services)
    shuffled = {**EVERYTHING, "services": dict(services)}
    # The revision is not part of it either: a change that HAProxy does not see reloads nothing.
    assert (rendered(shuffled, Snapshot.of(2, backends)), rendered({}, Snapshot.of(3, backends))) == expected


def test_different_texts_and_files_have_different_generations(tmp_path: Path) -> None:
    config = HAProxyConfig.model_validate(own(tmp_path, "# nothing", files=["/etc/map"]))
    assert set(referenced_files(config)) == {tmp_path / "own.cfg.j2", Path("/etc/map")}
    generations = [
        render(config, TWO, runtime, digests).generation
        for runtime in (Runtime(), Runtime(Path("/s")))
        for digests in ({}, {Path("/etc/map"): "1"}, {Path("/etc/map"): "2"})
    ]
    assert len(set(generations)) == 6
    assert rendered().generation == rendered().generation != rendered(of=snapshot()).generation


def test_every_template_gets_the_generation(parse: Parse, tmp_path: Path) -> None:
    result = rendered(own(tmp_path, "global\n    maxconn 10\nfrontend x\n mode http\n timeout client 1s\nbind *:80"))
    parse(result)
    assert result.text.splitlines()[1:3] == ["global", f"    description {result.generation}"]
    assert result.binds == ("0.0.0.0:80",)


def test_every_defaults_section_begins_with_lines_for_unresolvable_host_names(parse: Parse, tmp_path: Path) -> None:
    template = """
defaults one
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
defaults two from one
    retries 1
listen a from one
    bind 127.0.0.1:80
    server x no-such-name.invalid:80
listen b from two
    bind 127.0.0.1:81
    server {{ services[0].backends[0].id }} also-no-name.invalid:80 check
"""
    parse(rendered(own(tmp_path, template)))


def test_a_users_template_sees_services_and_can_extend_the_built_in_template(parse: Parse, tmp_path: Path) -> None:
    template = """
{% extends "builtin/haproxy.cfg.j2" %}
{% block service %}
# {{ service.name }} in {% for b in service.backends %}{{ b.labels.zone or "nowhere" }} {% endfor %}

{{ super() | raw }}
    http-request set-header X-Zones {{ "a b" | arg }}
{% endblock %}
"""
    of = snapshot(backend(port=1, labels={"zone": "x y"}), backend(port=2))
    text = rendered(own(tmp_path, template), of).text
    parse(text)
    assert "# web in x\\x20y nowhere" in text
    assert "    http-request set-header X-Zones a\\x20b\n" in text
    assert re.search(r"^    server 127.0.0.1:2 127.0.0.1:2 id \d+ weight 1$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("ok\n{{ servcies }}", "own.cfg.j2, line 2: 'servcies' is undefined"),
        ("ok\n\n{% for x in services %}", "own.cfg.j2, line 3: Unexpected end of template"),
        ("{{ services }}", "own.cfg.j2, line 1: cannot print"),
        ("{{ none }}", "own.cfg.j2, line 1: cannot print None"),
        ("{{ services[0].nme }}", "BackendSection object' has no attribute 'nme'"),
        ("{{ 1 / 0 }}", "own.cfg.j2, line 1: division by zero"),
        ("{% include 'other.j2' %}", "/other.j2 cannot be read: there is no such file"),
        (None, "/own.cfg.j2 cannot be read: there is no such file"),
    ],
)
def test_an_error_in_a_template_is_one_line(tmp_path: Path, template: str | None, complaint: str) -> None:
    config = own(tmp_path, template or "")
    if template is None:
        Path(config["template"]).unlink()
    with pytest.raises(ApplyError) as caught:
        rendered(config, snapshot(backend()))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_template_is_recompiled(tmp_path: Path) -> None:
    config = HAProxyConfig.model_validate(own(tmp_path, "# one"))
    path = config.template
    assert path is not None
    assert "# one" in render(config, TWO, Runtime(), {path: "1"}).text
    path.write_text("# two")
    assert "# two" in render(config, TWO, Runtime(), {path: "2"}).text


def test_a_backend_that_cannot_be_rendered_is_left_out_with_the_reason() -> None:
    broken = Backend("web", "bad", "a b", 80)
    result = rendered(of=snapshot(broken, backend()))
    assert servers(result.text) == ["server 127.0.0.1:8080 127.0.0.1:8080 weight 1"]
    assert result.problems == (
        "backend 'bad' of 'web' is left out: the host 'a b' is neither an IP address nor a host name",
    )


def test_the_example_template_is_valid(parse: Parse) -> None:
    template = Path(__file__).parents[3] / "examples" / "haproxy" / "zones.cfg.j2"
    of = snapshot(backend(port=1, labels={"zone": "eu-1"}), backend(port=2, labels={"zone": "us 1"}), backend(port=3))
    text = rendered({"template": str(template), "services": {"web": {"bind": "*:80"}}}, of).text
    assert parse(text) == ""
    servers = [line.strip() for line in text.splitlines() if line.lstrip().startswith("server ")]
    assert [line.endswith(" backup") for line in servers] == [False, True, True]


@pytest.mark.parametrize(
    ("config", "template", "spared"),
    [
        ({}, None, True),
        ({"global_lines": "lua-load /x.lua"}, None, False),
        ({"global_lines": "httpclient.ssl.verify required"}, None, False),
        ({"global_lines": "'lua-load' /x.lua"}, None, False),
        ({"services": {"web": {"bind": {"address": "*:80", "options": "ocsp-update on"}}}}, None, False),
        ({"services": {"web": {"bind": {"address": "*:80", "options": "ssl crt-list /x.list"}}}}, None, False),
        ({}, "acme LE\n    directory https://acme.example/directory", False),
        ({}, "global\n    lua-load-per-thread /x.lua", False),
        (
            {},
            "listen acme\n mode http\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n bind 127.0.0.1:1",
            True,
        ),
    ],
)
def test_authorities_are_loaded_only_if_haproxy_sends_requests_itself(
    parse: Parse, tmp_path: Path, config: dict[str, Any], template: str | None, spared: bool
) -> None:
    if template is not None:
        config = {**config, **own(tmp_path, template)}
    text = rendered(config, runtime=Runtime(alone=True)).text
    assert (".if feature(OPENSSL)\n    httpclient.ssl.verify none\n.endif\n" in text) is spared
    assert "httpclient.ssl.verify none" not in rendered(config).text
    if spared:
        assert not parse(text)
