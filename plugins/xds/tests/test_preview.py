"""The preview of a change: listeners, routes and services as text."""

from typing import Any

from discovery import Snapshot, Update, diff
from discovery.testing import backend, snapshot
from discovery_xds.config import XdsConfig
from discovery_xds.preview import preview


def shown(state: Snapshot, before: Snapshot | None = None, *, addresses: Any = None, **options: Any) -> list[str]:
    """The lines that come, go or comment, without the header of the diff."""
    update = Update(state, before, diff(before, state), addresses)
    text = preview(XdsConfig.model_validate(options), update)
    return [line for line in text.splitlines() if line[:1] in "+-#" and line[:3] not in ("+++", "---")]


def test_everything_is_new_at_first_with_its_tls_and_without_secrets() -> None:
    bind = {"address": "127.0.0.1:8443", "certificate": "/etc/site.pem"}
    assert shown(snapshot(backend(id="a", weight=3)), services={"web": {"bind": bind, "hosts": "a.example"}}) == [
        "+listener 127.0.0.1:8443 (http, TLS)",
        "+  a.example / -> web",
        "+service web (roundrobin), for gRPC clients xds:///web",
        "+  a 127.0.0.1:8080 weight 3",
    ]


def test_a_change_shows_what_differs_and_no_change_nothing() -> None:
    one = snapshot(backend(id="a", host="10.0.0.1"))
    two = snapshot(backend(id="a", host="10.0.0.1", state="draining"), revision=2)  # type: ignore[arg-type]
    assert shown(two, one) == ["-  a 10.0.0.1:8080 weight 1", "+  a 10.0.0.1:8080 (no new connections)"]
    assert shown(one, one) == []


def test_services_without_a_route_and_host_names_without_an_address_are_told() -> None:
    lines = shown(snapshot(backend(service="Web"), backend(id="b", service="web", host="db.example")), addresses={})
    assert lines[0].startswith("# service web: it has no route: ")
    assert "+  b db.example:8080 (no address) weight 1" in lines
