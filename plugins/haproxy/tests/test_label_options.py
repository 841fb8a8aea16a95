"""Options of servers that come from labels: backups, the port of checks, and the factor of the weight."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import structlog
from haproxy_web import Fetch, Parse, RunHAProxy, StartOrigin
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from discovery import Backend, Snapshot
from discovery.testing import backend, eventually_sync, free_port
from discovery_haproxy.fallback.records import Records
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Rendered, Runtime, render

ZONES = {"backup": {"label": "zone", "not": "eu-1"}}
CHECKS = {"check": {"port": {"label": "check_port"}, "interval": "200ms"}}
WEIGHTS = {"weight_factor": {"label": "capacity"}}
HOSTILE = (
    "99999", "0", "-1", "x", " 80", "80 81", "80\t", "8_0", "٨٠", "1e3", "0x50", "nan", "inf", "80;disabled", "80#",
    '"', "${HOME}", "\\x20", "1" * 400, "257", "256.5", "1.", ".5", "1.0000000001",
)  # fmt: skip


def rendered(options: dict[str, Any], *backends: Backend) -> Rendered:
    """Render the service `web` with the options for these backends."""
    config = HAProxyConfig.model_validate({"services": {"web": {"bind": "127.0.0.1:1", **options}}})
    return render(config, Snapshot.of(1, backends), Runtime(), {})


def words(result: Rendered) -> dict[str, str]:
    """Return what stands behind the address of each server, without the numeric id."""
    found = re.findall(r"^    server (\S+) \S+ id \d+ (.*)$", result.text, re.MULTILINE)
    return dict(found)


def labelled(**labels: str) -> Backend:
    """Return the backend `b` with these labels."""
    return backend(id="b", weight=10, labels=labels)


def test_backups_are_the_backends_with_or_without_a_value() -> None:
    backends = [backend(id=zone or "none", labels={"zone": zone} if zone else {}) for zone in ("eu-1", "eu-2", "")]
    assert words(rendered(ZONES, *backends)) == {
        "eu-1": "weight 1",
        "eu-2": "weight 1 backup",
        "none": "weight 1 backup",  # a missing label is the empty value
    }
    listed = {"backup": {"label": "zone", "is": ["eu-2", "eu-3"]}}
    result = rendered(listed, *backends)
    assert words(result) == {"eu-1": "weight 1", "eu-2": "weight 1 backup", "none": "weight 1"}
    assert result.mappings == ("web  http 127.0.0.1:1 -> 3 backends, 1 backup",)
    assert "option allbackups" not in result.text
    assert "option allbackups" in rendered({"backup": {"label": "zone", "not": "a", "all": True}}).text


def test_the_port_of_checks_is_the_labels_or_the_backends_own() -> None:
    assert words(rendered(CHECKS, labelled(check_port="9200"))) == {"b": "weight 10 port 9200"}
    assert words(rendered(CHECKS, labelled())) == {"b": "weight 10"}
    assert "check port" in rendered({"check": {"port": 9200}}, labelled(check_port="1")).text


@pytest.mark.parametrize(
    ("factor", "weight"),
    [("2", 20), ("0.5", 5), ("0.001", 1), ("0", 0), ("100", 256), ("1.25", 12), ("", 10), ("256", 256)],
)
def test_the_weight_is_multiplied(factor: str, weight: int) -> None:
    result = rendered(WEIGHTS, labelled(capacity=factor))
    assert words(result) == {"b": f"weight {weight}"}
    assert result.problems == ()


@pytest.mark.parametrize(
    ("options", "labels", "problem"),
    [
        (
            CHECKS,
            {"check_port": "99999"},
            "'check_port' is '99999', not a port from 1 to 65535; the backend's own port",
        ),
        (WEIGHTS, {"capacity": "x"}, "'capacity' is 'x', not a number from 0 to 256; the weight stays"),
    ],
)
def test_a_bad_value_leaves_that_option_out(options: dict[str, Any], labels: dict[str, str], problem: str) -> None:
    everything = {**ZONES, **CHECKS, **WEIGHTS}
    good = {"check_port": "9200", "capacity": "2", "zone": "eu-2"}
    result = rendered(everything, labelled(**{**good, **labels}), backend(id="neighbour", labels=good))
    assert words(result)["neighbour"] == "weight 2 port 9200 backup"
    assert words(result)["b"] == ("weight 20 backup" if "check_port" in labels else "weight 10 port 9200 backup")
    assert [f"backend 'b' of 'web': the label {problem}" in each for each in result.problems] == [True]


def test_haproxy_accepts_whatever_labels_say(parse: Parse) -> None:
    values = [*HOSTILE, *map(str, range(250, 260))]
    backends = [
        backend(id=f"{name}{number}", labels={name: value})
        for number, value in enumerate(values)
        for name in ("check_port", "capacity", "zone")
        if value.isprintable()
    ]
    result = rendered({**ZONES, **CHECKS, **WEIGHTS}, *backends)
    assert parse(result.text) == ""
    assert len(words(result)) == len(backends)


@given(value=st.text() | st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,3})?", fullmatch=True))
def test_a_value_has_a_valid_effect_or_none(value: str) -> None:
    neighbour = backend(id="a")
    options = {**ZONES, **CHECKS, **WEIGHTS}
    result = rendered(options, neighbour, labelled(check_port=value, capacity=value, zone=value))
    found = words(result)
    assert found.pop("a") == "weight 1 backup"
    if not found:  # the core's rules refuse the whole record, as always
        assert "backend 'b' of 'web' is left out" in result.problems[0]
        return
    match = re.fullmatch(r"weight (\d+)(?: port (\d+))?( backup)?", found["b"])
    assert match is not None
    assert 0 <= int(match[1]) <= 256
    assert match[2] is None or (1 <= int(match[2]) <= 65535 and int(match[2]) == int(value))
    assert len(result.problems) == (0 if not value else (match[2] is None) + (_factor(value) is None))


def _factor(value: str) -> float | None:
    return float(value) if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", value) and float(value) <= 256 else None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"backup": {"label": "zone"}}, "give exactly one of 'is' and 'not'"),
        ({"backup": {"label": "zone", "is": "a", "not": "b"}}, "give exactly one of 'is' and 'not'"),
        ({"backup": True}, "valid dictionary"),
        ({"weight_factor": {"label": "a b"}}, "'a b' is not a label's name"),
        ({"weight_factor": 2}, "valid dictionary"),
        ({"check": {"port": 0}}, "0 is not a port to check: write a number from 1 to 65535"),
        ({"check": {"port": {"label": ""}}}, "'' is not a label's name"),
    ],
)
def test_an_invalid_option_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HAProxyConfig.model_validate({"services": {"web": options}})
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"services": {"web": ZONES}}, {"external": {"path": "/x", "command": ["y"], "validate": "none"}}]
)
async def test_options_with_short_names_survive_a_restart(tmp_path: Path, options: dict[str, Any]) -> None:
    config = HAProxyConfig.model_validate(options)
    await Records(tmp_path, structlog.get_logger()).record(config, {}, (), {})
    accepted = await asyncio.to_thread(Records(tmp_path, structlog.get_logger()).accepted, {})
    assert accepted is not None
    assert accepted.config == config


def test_backups_serve_while_no_other_backend_is_up(run: RunHAProxy, origin: StartOrigin, fetch: Fetch) -> None:
    near, far, url = origin("near"), origin("far"), f"http://127.0.0.1:{free_port()}/"
    options = {**ZONES, **CHECKS, "bind": url[len("http://") : -1]}
    backends = [
        backend(id="near", port=near.port, labels={"zone": "eu-1", "check_port": str(far.port)}),
        backend(id="far", port=far.port, labels={"zone": "eu-2"}),
    ]
    run(rendered(options, *backends).text, url)
    assert {fetch(url).body for _ in range(6)} == {"near"}
    # The check of `near` fails now, and `near` itself still answers: checks go to the port of the label.
    backends[0] = backend(id="near", port=near.port, labels={"zone": "eu-1", "check_port": str(free_port())})
    other = f"http://127.0.0.1:{free_port()}/"
    run(rendered({**options, "bind": other[len("http://") : -1]}, *backends).text, other)
    eventually_sync(lambda: {fetch(other).body for _ in range(4)} == {"far"}, "the backup to serve")


def test_a_factor_shares_requests_out(run: RunHAProxy, origin: StartOrigin, fetch: Fetch) -> None:
    small, large, url = origin("small"), origin("large"), f"http://127.0.0.1:{free_port()}/"
    options = {**WEIGHTS, "check": False, "bind": url[len("http://") : -1]}
    backends = [
        backend(id="small", port=small.port, weight=10),
        backend(id="large", port=large.port, weight=10, labels={"capacity": "3"}),
    ]
    run(rendered(options, *backends).text, url)
    answers = [fetch(url).body for _ in range(40)]
    assert (answers.count("small"), answers.count("large")) == (10, 30)
