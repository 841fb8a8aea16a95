"""Sections of the user's own, and caches: refused values, and what HAProxy makes of them."""

from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from haproxy_web import Fetch, Parse, RunHAProxy, StartOrigin
from pydantic import ValidationError

from discovery import Snapshot
from discovery.testing import backend, free_port, within
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Rendered, Runtime, render

EVERY_KIND = {
    "backend table": "stick-table type ip size 1k expire 1m store http_req_rate(10s)",
    "cache static": ["total-max-size 4", "max-age 60"],
    "http-errors site": "errorfile 404 {page}",
    "log-forward relay": ["dgram-bind 127.0.0.1:{port}", "log global"],
    "mailers staff": "mailer a 10.0.0.1:25",
    "peers edge": ["peer here 127.0.0.1:{port}", "peer there 10.0.0.2:1024"],
    "resolvers inside": "nameserver a 10.0.0.1:53",
    "ring buffer": ["format raw", "size 32764"],
    "userlist staff": "user alice password $5$saltsalt$3xv.VbSCBX41eDL9L3voZredEjXUtBAc7UVC3RgcCS3",
    "fcgi-app php": "docroot /var/www",
}
USING = {
    "frontend_lines": ["http-request track-sc0 src table table", "errorfiles site"],
    "backend_lines": [
        "http-request cache-use static",
        "http-request auth unless { http_auth(staff) }",
        "email-alert mailers staff",
        "email-alert from edge@example.com",
        "email-alert to staff@example.com",
    ],
}
OWN_TEMPLATE = """
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
{% for service in services %}
backend {{ service.name }}
{% for line in service.config.backend_lines %}
    {{ line | raw }}
{% endfor %}
{% endfor %}
"""


def rendered(config: dict[str, Any], *ports: int) -> Rendered:
    backends = [backend(port=port, id=f"b{port}") for port in ports]
    return render(HAProxyConfig.model_validate(config), Snapshot.of(1, backends), Runtime(), {})


def sections(tmp_path: Path) -> dict[str, Any]:
    page = tmp_path / "404.http"
    page.write_text("HTTP/1.0 404 Not Found\r\n\r\nno such page\n")
    filled = {"page": page, "port": free_port()}

    def fill(lines: str | list[str]) -> list[str]:
        return [line.format_map(filled) for line in ([lines] if isinstance(lines, str) else lines)]

    return {header: fill(lines) for header, lines in EVERY_KIND.items()}


@pytest.mark.parametrize("own_template", [False, True])
def test_haproxy_takes_every_kind_of_section(parse: Parse, tmp_path: Path, own_template: bool) -> None:
    services = {"web": {"check": False, **USING}}
    config: dict[str, Any] = {"sections": sections(tmp_path), "services": services, "global_lines": "localpeer here"}
    if own_template:
        config["template"] = tmp_path / "own.cfg.j2"
        config["template"].write_text(OWN_TEMPLATE)
    text = rendered(config, 1).text
    assert parse(text) == ""
    for header, lines in config["sections"].items():
        assert "\n".join((f"\n{header}", *(f"    {line}" for line in lines), "")) in text


@pytest.mark.parametrize(
    ("header", "lines", "complaint"),
    [
        ("global", "maxconn 1", "'global' is a section of the plugin: use 'global_lines'"),
        ("defaults http", "x", "use 'defaults_lines'"),
        ("frontend more", "bind :1", "use a service with 'frontend_lines', or a file of your own with 'include'"),
        ("listen more", "bind :1", "use a service with 'frontend_lines' and 'backend_lines'"),
        ("cash static", "x", "'cash static' is not a section's kind and name: kinds are backend, cache, "),
        ("", "x", "is not a section's kind and name"),
        ("cache", "x", "'cache' is not 'cache' and a name"),
        ("cache a b", "x", "is not 'cache' and a name"),
        ("cache a#b", "x", "is not 'cache' and a name"),
        ("cache a\nglobal", "x", "is not 'cache' and a name"),
        ("cache discovery:web", "x", "this name is the plugin's own"),
        ("resolvers discovery", "x", "this name is the plugin's own"),
        ("backend frontend:web", "x", "this name is the plugin's own"),
        ("backend web", "x", "has the name of a service"),
        ("cache static", "total-max-size 4\nglobal", "is more than one line"),
        ("cache static", "backend x", "would begin a new section"),
        ("userlist staff", "user alice insecure-password secret", "'userlist staff' has a password"),
    ],
)
def test_a_section_that_is_refused(header: str, lines: str, complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HAProxyConfig.model_validate({"sections": {header: lines}, "services": {"web": {}}})
    told = "\n".join(f"{error['loc']} {error['msg']}" for error in caught.value.errors())
    assert complaint in told
    assert "alice" not in told


def test_a_backend_section_never_has_the_name_of_a_registered_service() -> None:
    with pytest.raises(ValidationError, match="could have the name of a service"):
        HAProxyConfig.model_validate({"sections": {"backend table": "x"}})
    assert HAProxyConfig.model_validate({"sections": {"backend table:ip": "x"}}).sections


@pytest.mark.parametrize(
    ("cache", "lines"),
    [
        (True, ("total-max-size 64", "max-age 60", "process-vary on")),
        ("64M", ("total-max-size 64", "max-age 60", "process-vary on")),
        ("1GiB", ("total-max-size 1024", "max-age 60", "process-vary on")),
        (
            {"size": "2 MB", "max_object_size": "1mb", "max_age": "1h"},
            ("total-max-size 2", "max-object-size 1048576", "max-age 3600", "process-vary on"),
        ),
    ],
)
def test_the_sizes_of_a_cache(cache: object, lines: tuple[str, ...]) -> None:
    config = HAProxyConfig.model_validate({"services": {"web": {"cache": cache}}}).services["web"].cache
    assert config is not None
    assert config.lines == lines


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"cache": 64}, "cache"),
        ({"cache": "64"}, "'64' is not a size: write a size such as 500kB, 64MB or 1GB"),
        ({"cache": "1kB"}, "greater than or equal to 1048576"),
        ({"cache": "4GB"}, "less than or equal to"),
        ({"cache": "1025kB"}, "a whole number of megabytes"),
        ({"cache": {"size": "2MB", "max_object_size": "2MB"}}, "at most half"),
        ({"cache": True, "mode": "tcp"}, "'cache' needs mode"),
        ({"cache": True, "basic_auth": "/users"}, "'cache' has no effect with 'basic_auth'"),
    ],
)
def test_a_cache_that_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        HAProxyConfig.model_validate({"services": {"web": options}})


@pytest.mark.parametrize("name", ["web", "w" * 128])
def test_answers_that_may_be_kept_come_from_the_cache(
    run: RunHAProxy, origin: StartOrigin, fetch: Fetch, name: str
) -> None:
    cached, plain = free_port(), free_port()
    web = origin("web")
    web.answers = {"Cache-Control": "max-age=60"}
    services = {
        name: {"bind": f"127.0.0.1:{cached}", "check": False, "cache": "1MB", "service": "web"},
        "plain": {"bind": f"127.0.0.1:{plain}", "check": False, "service": "web"},
    }
    run(rendered({"services": services}, web.port), f"http://127.0.0.1:{plain}/")
    web.seen.clear()
    for _ in range(3):
        assert fetch(f"http://127.0.0.1:{cached}/page").body == "web"
        assert fetch(f"http://127.0.0.1:{plain}/page").body == "web"
    assert web.seen == ["/page"] * 4
    kept = {"ETag": '"1"'}, {"Last-Modified": "Sat, 01 Jan 2000 00:00:00 GMT"}, {"Cache-Control": "s-maxage=9"}
    not_kept = {"Cache-Control": "no-store"}, {"Cache-Control": "private, max-age=9"}, {}
    for number, headers in enumerate((*kept, *not_kept)):
        web.answers, before = headers, len(web.seen)
        for _ in range(2):
            assert fetch(f"http://127.0.0.1:{cached}/{number}").body == "web"
        assert len(web.seen) - before == (1 if headers in kept else 2), headers
    web.answers, before = {"Cache-Control": "max-age=9"}, len(web.seen)
    for _ in range(2):
        fetch(f"http://127.0.0.1:{cached}/login", Authorization="Basic YTpi")
    assert len(web.seen) - before == 2


def test_a_userlist_lets_users_with_hashes_through(run: RunHAProxy, origin: StartOrigin, fetch: Fetch) -> None:
    port, ready, web = free_port(), free_port(), origin("web")
    services = {
        "web": {
            "bind": f"127.0.0.1:{port}",
            "check": False,
            "backend_lines": "http-request auth unless { http_auth(staff) }",
        },
        "ready": {"bind": f"127.0.0.1:{ready}", "check": False, "service": "web"},
    }
    users = {"userlist staff": "user alice password $1$saltsalt$qjXMvbEw8oaL.CzflDtaK/"}  # of "password"
    run(rendered({"services": services, "sections": users}, web.port), f"http://127.0.0.1:{ready}/")
    assert fetch(f"http://127.0.0.1:{port}/").status == 401
    connection = HTTPConnection("127.0.0.1", port, timeout=within(10))
    connection.request("GET", "/", headers={"Authorization": "Basic YWxpY2U6cGFzc3dvcmQ="})
    assert connection.getresponse().status == 200
    connection.close()
