"""The configuration with the services that labels ask for, snapshot after snapshot."""

from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import ValidationError

from discovery import Backend, Snapshot
from discovery.testing import backend, snapshot
from discovery_haproxy.label_routes.requests import HOST, PATH
from discovery_haproxy.label_routes.router import LabelRouter
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Rendered, Runtime, render
from discovery_haproxy.runtime_api.planner import Plan, make_plan

LOG = structlog.get_logger()
ALLOWED = {"label_routes": "*.example.com"}


def labelled(service: str, host: str, id_: str = "1", *, path: str = "", created: int | None = None) -> Backend:
    """Return a backend whose labels ask for a route."""
    labels = {HOST: host} | ({PATH: path} if path else {})
    return Backend(service, id_, "10.0.0.1", 80, labels=labels, created=created)


def options(**config: Any) -> HAProxyConfig:
    return HAProxyConfig.model_validate({**ALLOWED, **config})


def routes(router: LabelRouter, config: HAProxyConfig, of: Snapshot, *, remember: bool = True) -> dict[str, Any]:
    """Return the hosts and the paths of the services that are served."""
    found = router.configured(config, of, remember=remember).services
    return {name: (*each.hosts, *each.path_prefix) for name, each in found.items()}


@pytest.fixture
def router(tmp_path: Path) -> LabelRouter:
    return LabelRouter(tmp_path, LOG)


def test_without_the_option_labels_do_nothing(router: LabelRouter) -> None:
    config = HAProxyConfig()
    assert router.configured(config, snapshot(labelled("a", "a.example.com"))) is config


def test_services_with_allowed_labels_are_served_beside_those_of_the_configuration(router: LabelRouter) -> None:
    config = options(services={"web": {"hosts": "www.example.com"}})
    of = snapshot(
        labelled("shop", "shop.example.com", path="/api"), labelled("x", "example.org"), backend("plain", "1")
    )
    assert routes(router, config, of) == {"web": ("www.example.com",), "shop": ("shop.example.com", "/api")}
    assert router.problems == (
        "backend '1' of 'x' gets no route: 'label_routes' does not allow the host 'example.org'",
    )


def test_a_configured_service_and_its_hosts_stay_as_configured(router: LabelRouter) -> None:
    config = options(services={"web": {"hosts": "www.example.com"}, "pg": {"service": "db", "bind": "*:1"}})
    of = snapshot(
        labelled("web", "shop.example.com"), labelled("pg", "pg.example.com"), labelled("thief", "www.example.com")
    )
    assert routes(router, config, of) == {"web": ("www.example.com",), "pg": ()}
    assert len(router.problems) == 3


def test_the_record_that_was_created_first_wins(router: LabelRouter) -> None:
    old, new = labelled("z", "a.example.com", created=7), labelled("a", "a.example.com", created=8)
    assert routes(router, options(), snapshot(old, new)) == {"z": ("a.example.com",)}
    assert routes(router, options(), snapshot(new)) == {"a": ("a.example.com",)}
    again = labelled("z", "a.example.com", created=9)
    assert routes(router, options(), snapshot(again, new)) == {"a": ("a.example.com",)}


def test_a_record_that_was_created_anew_unseen_is_the_younger(router: LabelRouter) -> None:
    old, new = labelled("z", "a.example.com", created=7), labelled("a", "a.example.com", created=8)
    assert routes(router, options_ := options(), snapshot(old, new)) == {"z": ("a.example.com",)}
    again = labelled("z", "a.example.com", created=9)
    assert routes(router, options_, snapshot(again, new)) == {"a": ("a.example.com",)}


def test_no_service_gets_the_name_of_a_section_of_the_users_own(router: LabelRouter) -> None:
    of, taken = snapshot(labelled("a", "a.example.com"), labelled("b", "b.example.com")), {"a": "/etc/own.cfg:3"}
    assert set(router.configured(config := options(), of, taken).services) == {"b"}
    assert router.problems == ("the labels of service 'a' give no route: /etc/own.cfg:3 has a section of that name",)
    assert set(router.configured(config, of).services) == {"a", "b"}


def test_without_such_a_number_the_record_that_was_seen_first_wins_also_after_a_restart(tmp_path: Path) -> None:
    old, new = labelled("z", "a.example.com"), labelled("a", "a.example.com")
    first = LabelRouter(tmp_path, LOG)
    assert routes(first, options(), snapshot(old)) == {"z": ("a.example.com",)}
    assert routes(first, options(), snapshot(old, new)) == {"z": ("a.example.com",)}
    assert routes(LabelRouter(tmp_path, LOG), options(), snapshot(old, new)) == {"z": ("a.example.com",)}
    assert (tmp_path / "label-routes.json").stat().st_mode & 0o777 == 0o600


def test_a_look_ahead_remembers_nothing(tmp_path: Path) -> None:
    assert routes(LabelRouter(tmp_path, LOG), options(), snapshot(labelled("z", "a.example.com")), remember=False)
    assert not list(tmp_path.iterdir())


def test_what_a_look_ahead_has_seen_is_remembered_by_the_next_change(tmp_path: Path) -> None:
    router, config, of = LabelRouter(tmp_path, LOG), options(), snapshot(labelled("z", "a.example.com"))
    assert routes(router, config, of, remember=False) == routes(router, config, of)
    assert (tmp_path / "label-routes.json").exists()


def test_a_host_that_is_allowed_no_longer_is_not_served(router: LabelRouter) -> None:
    config = options()
    assert routes(router, config, snapshot(labelled("a", "a.example.com"))) == {"a": ("a.example.com",)}
    assert routes(router, config, snapshot()) == {"a": ("a.example.com",)}
    assert routes(router, options(label_routes="*.example.org"), snapshot()) == {}


def test_a_file_that_cannot_be_read_or_written_costs_the_memory_alone(tmp_path: Path) -> None:
    (tmp_path / "label-routes.json").mkdir()
    of = snapshot(labelled("z", "a.example.com"))
    assert routes(LabelRouter(tmp_path, LOG), options(), of) == {"z": ("a.example.com",)}


def test_equal_wishes_are_the_same_configuration(router: LabelRouter) -> None:
    first = router.configured(options_ := options(), snapshot(labelled("a", "a.example.com")))
    moved = Backend("a", "1", "10.0.0.2", 80, labels={HOST: "a.example.com"})
    assert router.configured(options_, snapshot(moved)) is first


def test_a_service_that_left_keeps_its_route_until_another_asks_for_it(router: LabelRouter) -> None:
    config = options()
    assert routes(router, config, snapshot(labelled("a", "a.example.com"))) == {"a": ("a.example.com",)}
    assert routes(router, config, snapshot(backend("plain", "1"))) == {"a": ("a.example.com",)}
    assert routes(router, config, snapshot(backend("a", "1"))) == {}
    assert routes(router, config, snapshot(labelled("a", "a.example.com"))) == {"a": ("a.example.com",)}
    assert routes(router, config, snapshot(labelled("b", "a.example.com"))) == {"b": ("a.example.com",)}


def test_services_that_come_and_go_are_forgotten(router: LabelRouter) -> None:
    config = options()
    for number in range(300):
        found = routes(router, config, snapshot(labelled(f"s{number}", f"s{number}.example.com")))
    assert len(found) == 101


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"services": {"web": {"mode": "tcp"}}}, "'label_routes' cannot use the instance's 'bind': services"),
        ({"services": {"web": {"maxconn": 5}}}, "'web' sets 'maxconn', which limits a whole frontend"),
        ({"external": {"fragment": "/x", "files": ["/y"], "systemd_unit": "haproxy"}}, "'label_routes' needs a 'bind'"),
        ({"label_routes": "a b"}, "is not a host pattern"),
    ],
)
def test_what_cannot_be_shared_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        options(**config)
    assert reason in str(caught.value)


_OPTIONS = options()


def rendered(router: LabelRouter, of: Snapshot) -> Rendered:
    return render(router.configured(_OPTIONS, of), of, Runtime())


def test_a_route_changes_without_a_reload(router: LabelRouter) -> None:
    plans = []
    before = rendered(router, snapshot(labelled("a", "a.example.com"), labelled("b", "b.example.com")))
    for of in (
        snapshot(labelled("a", "a2.example.com"), labelled("b", "b.example.com", path="/api")),
        snapshot(labelled("b", "b.example.com", path="/api")),
        snapshot(labelled("a", "a2.example.com", "2"), labelled("b", "b.example.com", path="/api")),
    ):
        after = rendered(router, of)
        plans.append(make_plan(before.configuration, after.configuration, (2, 8, 25), {}))
        before = after
    assert all(isinstance(plan, Plan) for plan in plans), plans


def test_before_the_first_route_haproxy_listens(router: LabelRouter) -> None:
    text = rendered(router, snapshot(backend("plain", "1"))).text
    assert "bind 127.0.0.1:8080" in text
    assert "backend plain" not in text
