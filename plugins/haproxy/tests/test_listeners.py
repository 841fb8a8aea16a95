"""The addresses that HAProxy listens on, found in a configuration's text."""

import pytest
from haproxy_web import Parse

from discovery_haproxy.text.listeners import Listener, SocketKind, listeners_in, parse_listener

UNJUDGED = [
    "fd@3",
    "sockpair@3",
    '"127.0.0.1:${PORT}"',
    "127.0.0.1:8080 namespace blue",
    "unix@relative",
    "ipv4@::1:80",
    "no-port",
    "127.0.0.1:0",
    "127.0.0.1:70000",
    "127.0.0.1:+1",
    "abnsz@later",
    "rhttp@later",
]
FORMS = {
    "127.0.0.1:80": Listener(SocketKind.TCP, "127.0.0.1", range(80, 81)),
    "localhost:80": Listener(SocketKind.TCP, "localhost", range(80, 81)),
    ":80": Listener(SocketKind.TCP, "", range(80, 81)),
    "*:80": Listener(SocketKind.TCP, "", range(80, 81)),
    "*:80-82": Listener(SocketKind.TCP, "", range(80, 83)),
    "[::1]:80": Listener(SocketKind.TCP, "::1", range(80, 81), ipv6=True),
    "::1:80": Listener(SocketKind.TCP, "::1", range(80, 81), ipv6=True),
    ":::80 v4v6": Listener(SocketKind.TCP, "::", range(80, 81), ipv6=True, ipv6_only=False),
    "[::]:80 ssl crt /x v6only": Listener(SocketKind.TCP, "::", range(80, 81), ipv6=True, ipv6_only=True),
    "ipv4@127.0.0.1:80": Listener(SocketKind.TCP, "127.0.0.1", range(80, 81)),
    "ipv6@:80": Listener(SocketKind.TCP, "", range(80, 81), ipv6=True),
    "ipv6@*:80": Listener(SocketKind.TCP, "", range(80, 81), ipv6=True),
    "ipv6@[::1]:80": Listener(SocketKind.TCP, "::1", range(80, 81), ipv6=True),
    "tcp@127.0.0.1:80": Listener(SocketKind.TCP, "127.0.0.1", range(80, 81)),
    "tcp6@::1:80": Listener(SocketKind.TCP, "::1", range(80, 81), ipv6=True),
    "stream+ipv4@127.0.0.1:80": Listener(SocketKind.TCP, "127.0.0.1", range(80, 81)),
    '"127.0.0.1:80"': Listener(SocketKind.TCP, "127.0.0.1", range(80, 81)),
    "127.0.0.1:80 name x interface eth0 # y": Listener(SocketKind.TCP, "127.0.0.1", range(80, 81), interface="eth0"),
    "192.0.2.1:80 transparent": Listener(SocketKind.TCP, "192.0.2.1", range(80, 81), transparent=True),
    "quic4@127.0.0.1:443 ssl crt /x": Listener(SocketKind.UDP, "127.0.0.1", range(443, 444)),
    "quic6@:443 ssl crt /x": Listener(SocketKind.UDP, "", range(443, 444), ipv6=True),
    "/run/web.sock mode 600": Listener(SocketKind.PATH, "/run/web.sock"),
    "unix@/run/web.sock": Listener(SocketKind.PATH, "/run/web.sock"),
    "abns@web": Listener(SocketKind.ABSTRACT, "web"),
}


def listeners(text: str) -> list[Listener | None]:
    return [parse_listener(each) for each in listeners_in(text)]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_bind_is_understood(form: str) -> None:
    assert listeners(f"frontend x\n    bind {form}\n") == [FORMS[form]]


@pytest.mark.parametrize("form", UNJUDGED)
def test_a_form_that_does_not_tell_where_haproxy_listens_is_not_judged(form: str) -> None:
    assert listeners(f"frontend x\n    bind {form}\n") == [None]


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("quic") and "crt" not in form])
def test_haproxy_accepts_these_forms(form: str, parse: Parse) -> None:
    parse(f"defaults\n    mode http\n    timeout client 1s\nfrontend x\n    bind {form}\n")


def test_several_addresses_of_a_line_are_found() -> None:
    assert listeners_in("\tbind 127.0.0.1:80,unix@/run/x,[::1]:80-81 ssl v6only crt a\n") == (
        "/run/x v6only",
        "127.0.0.1:80 v6only",
        "[::1]:80-81 v6only",
    )


def test_every_directive_that_listens_is_found() -> None:
    text = """\
global
    stats socket /run/stats mode 600 level admin
    stats socket ipv4@127.0.0.1:9999 level user
    unix-bind user nobody prefix /srv
log-forward syslog
    bind 127.0.0.1:1514
    dgram-bind 127.0.0.1:1515
peers mine
    bind 127.0.0.1:10000
frontend x
bind unix@/in
    bind-process 1
    # bind 127.0.0.1:1
"""
    assert listeners(text) == [
        Listener(SocketKind.PATH, "/run/stats"),
        Listener(SocketKind.PATH, "/srv/in"),
        Listener(SocketKind.TCP, "127.0.0.1", range(10000, 10001)),
        Listener(SocketKind.TCP, "127.0.0.1", range(1514, 1515)),
        Listener(SocketKind.TCP, "127.0.0.1", range(9999, 10000)),
        Listener(SocketKind.UDP, "127.0.0.1", range(1515, 1516)),
    ]
