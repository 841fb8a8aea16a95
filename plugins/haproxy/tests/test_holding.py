"""Requests that wait while a service has no backend: the options, and the lines that HAProxy gets."""

from typing import Any

import pytest
from haproxy_web import Parse
from pydantic import ValidationError

from discovery.testing import backend, snapshot
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.names import accepted_name
from discovery_haproxy.rendering.render import Rendered, Runtime, render
from discovery_haproxy.runtime_api.planner import Plan, Reload, make_plan
from discovery_haproxy.text.server_line import HOLDING_SERVER, parse_server

BIND = "127.0.0.1:8080"
NONE = snapshot()


def rendered(*, version: tuple[int, ...] = (2, 6), of: Any = NONE, **service: Any) -> Rendered:
    """Render a service with these options, beside a service that does not hold."""
    services = {"web": {"bind": BIND, **service}, "other": {"bind": "127.0.0.1:8081"}}
    return render(HAProxyConfig.model_validate({"services": services}), of, Runtime(version=version))


def lines_of(text: str, section: str) -> list[str]:
    """Return the lines of a section."""
    [found] = [part for part in text.split("\n\n") if part.startswith(f"{section}\n")]
    return [line.strip() for line in found.splitlines()[1:]]


def test_a_service_that_holds_has_a_server_of_last_resort_and_tries_for_so_many_seconds() -> None:
    lines = lines_of(rendered(hold="20s").text, "backend web")
    assert "retries 20" in lines
    assert lines[-1].startswith(f"server {HOLDING_SERVER} 127.0.0.1:1 ")
    assert {"backup", "no-check"} <= set(lines[-1].split())
    assert any(line.startswith("default-server ") and "on-error mark-down" in line for line in lines)


@pytest.mark.parametrize(
    ("hold", "connect", "retries"),
    [(20, "5s", 20), ("1h", "55ms", 65455), (20, "50ms", 400), ("1500ms", "5s", 3), ("1m", "500ms", 120)],
)
def test_attempts_cover_the_time(hold: Any, connect: str, retries: int) -> None:
    timeouts = {"connect": connect, "client": "2h"}
    assert f"retries {retries}" in lines_of(rendered(hold=hold, timeouts=timeouts).text, "backend web")


def test_a_service_that_does_not_hold_is_as_before() -> None:
    assert rendered(hold=0).text == rendered().text
    held, plain = rendered(hold=20, version=(2, 8)).text, rendered(version=(2, 8)).text
    for section in ("defaults", "backend other"):
        assert lines_of(held, section) == lines_of(plain, section)


def test_before_2_8_a_frontend_notices_clients_that_leave_only_by_its_defaults() -> None:
    text = rendered(hold=20).text
    assert "option abortonclose" in lines_of(text, "defaults")
    assert "option abortonclose" in lines_of(text, "backend web")
    assert "no option abortonclose" in lines_of(text, "backend other")


@pytest.mark.parametrize("mode", ["http", "tcp"])
@pytest.mark.parametrize("balance", ["roundrobin", "leastconn", "source", "random", "first", "static-rr"])
def test_haproxy_takes_the_lines_without_a_warning(parse: Parse, mode: str, balance: str) -> None:
    of = snapshot(backend(port=8001), backend(port=8002))
    assert parse(rendered(mode=mode, balance=balance, hold="20s", of=of, send_proxy="v2", server_maxconn=9)) == ""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"hold": 20, "check": False}, "'hold' needs a check"),
        (
            {"hold": 20, "backup": {"label": "zone", "not": "eu", "all": True}},
            "'hold' cannot be used with 'backup.all'",
        ),
        ({"hold": 60}, "'hold' of service 'web' (1m) has to be shorter than its timeouts.client (1m)"),
        ({"hold": 20, "timeouts": {"client": "15s"}}, "has to be shorter than its timeouts.client (15s)"),
        (
            {"hold": "1h", "timeouts": {"client": "2h", "connect": "50ms"}},
            "(1h) needs 72000 attempts with timeouts.connect 50ms, and HAProxy makes at most 65535",
        ),
        ({"hold_connections": 5}, "'hold_connections' has no effect without 'hold'"),
        ({"hold": -1}, "hold"),
        ({"hold": 20, "hold_connections": 0}, "hold_connections"),
    ],
)
def test_what_cannot_hold_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HAProxyConfig.model_validate({"services": {"web": {"bind": BIND, **options}}})
    assert reason in str(caught.value)


def test_an_external_haproxy_is_refused() -> None:
    table = {"external": {"path": "/x", "systemd_unit": "haproxy"}, "services": {"web": {"bind": BIND, "hold": 20}}}
    with pytest.raises(ValidationError, match="'hold' of service 'web' needs a managed HAProxy"):
        HAProxyConfig.model_validate(table)


def test_no_backend_gets_the_name_of_the_holding_server() -> None:
    assert accepted_name(HOLDING_SERVER) != HOLDING_SERVER
    text = rendered(hold=20, of=snapshot(backend(id=HOLDING_SERVER, port=8001))).text
    assert sum(f"server {HOLDING_SERVER} " in line for line in text.splitlines()) == 1


def test_a_word_that_switches_the_check_off_is_understood() -> None:
    server = parse_server("server a 10.0.0.1:80 no-check backup", ("check", "inter", "2s"))
    assert server is not None
    assert server.options == {"inter": "2s", "backup": ""}


@pytest.mark.parametrize("balance", ["roundrobin", "source"])
def test_the_first_backend_is_added_at_run_time(balance: str) -> None:
    before, after = rendered(hold=20, balance=balance), rendered(hold=20, balance=balance, of=snapshot(backend()))
    plan = make_plan(before.configuration, after.configuration, (2, 8, 25), {})
    assert isinstance(plan, Plan), plan
    assert len(plan.steps) == 1


def test_a_backup_is_not_added_behind_the_holding_server_at_run_time() -> None:
    backup = {"label": "role", "is": "standby"}
    standby = snapshot(backend(port=8001), backend(port=8002, labels={"role": "standby"}))
    before = rendered(hold=20, backup=backup, of=snapshot(backend(port=8001)))
    plan = make_plan(before.configuration, rendered(hold=20, backup=backup, of=standby).configuration, (2, 8, 25), {})
    assert isinstance(plan, Reload)
    assert "holding server" in plan.reason
