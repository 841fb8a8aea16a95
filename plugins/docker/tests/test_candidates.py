"""The candidates of containers: selection, ports, names and checks."""

from typing import Any

import pytest
from finding import Finder, container
from hypothesis import given
from hypothesis import strategies as st

from discovery import Backend, Outcome, State, Verdict
from discovery.probes import CommandProbe, HttpProbe, ReportedProbe, TcpProbe
from discovery.registry import validate
from discovery_docker.config import DockerConfig
from discovery_docker.container import Addresses, Binding, Container
from discovery_docker.naming import base_name
from discovery_docker.rules import Rules

find = Finder(lambda **options: Rules.of(DockerConfig.model_validate(options)))
found, backend, problem, probes, ports = find.found, find.backend, find.problem, find.probes, find.ports


@pytest.mark.parametrize(
    ("option", "patterns", "selected"),
    [
        ("names", "web-*", {"web-1", "web-2"}),
        ("names", "web-1", {"web-1"}),
        ("names", f"{'other':0<64}"[:12], {"other"}),
        ("names", "other000", set()),
        ("images", "httpd", {"web-1"}),
        ("images", "team/*", {"web-2"}),
        ("images", "*shop:1*", {"web-2"}),
        ("images", "shop:2*", set()),
        ("labelled", "tier=w*", {"other"}),
        ("labelled", "tier", {"other"}),
        ("labelled", "tier=x", set()),
    ],
)
def test_the_configuration_selects(option: str, patterns: str, selected: set[str]) -> None:
    containers = (
        container("web-1"),
        container("web-2", "team/shop:1.2"),
        container("other", "odd", labels={"tier": "web"}),
    )
    candidates, _ = found(*containers, **{option: patterns})
    assert {key.split(":")[1] for key in candidates} == selected


@pytest.mark.parametrize(
    ("image", "name"), [("httpd", "httpd"), ("a:5000/b/httpd:2", "httpd"), ("b/x@sha256:0", "x"), ("sha256:00", "")]
)
def test_a_service_is_called_after_the_image(image: str, name: str) -> None:
    assert base_name(image) == name


DIGEST = "d75ca20b837b12f8a363b921df91dac3cd1cce8e1362211b16cc055f09f54fb1"


@pytest.mark.parametrize("image", [f"sha256:{DIGEST}", DIGEST, DIGEST[:12]])
def test_an_image_that_was_named_by_its_id_has_the_names_of_its_tags(image: str) -> None:
    by_id = container("c", image, image_id=f"sha256:{DIGEST}", image_names=("team/shop:1.2", "web:latest"))
    for pattern in ("shop", "team/*", "shop:1*", "web"):
        assert backend(by_id, images=pattern).service == "shop"
    assert found(by_id, images="httpd") == ({}, {})
    assert backend(by_id).service == "shop"


def test_the_default_registration_is_registrators() -> None:
    assert backend(container()) == Backend("httpd", "m:web:80", "10.0.0.1", 30080)
    labelled = container(labels={"SERVICE_80_NAME": "shop", "SERVICE_ID": "one", "SERVICE_TAGS": "a,b"})
    assert backend(labelled) == Backend("shop", "one", "10.0.0.1", 30080, labels={"tags": "a,b"})


def test_the_configuration_overrides_labels() -> None:
    labels = {"SERVICE_NAME": "theirs", "SERVICE_ID": "theirs", "SERVICE_ZONE": "theirs", "SERVICE_OTHER": "theirs"}
    options: dict[str, Any] = {"service": "ours", "id": "ours", "labels": {"zone": "ours"}}
    assert backend(container(labels=labels), **options, services=["x"], weight=7) == Backend(
        "ours", "ours", "10.0.0.1", 30080, 7, labels={"zone": "ours", "other": "theirs"}
    )
    plain = backend(container(labels=labels | {"SERVICE_IGNORE": "1"}), conventions=False)
    assert plain == Backend("httpd", "m:web:80", "10.0.0.1", 30080)


def test_the_labels_of_a_route_are_passed_on() -> None:
    route = {"discovery.host": "shop.example.com", "discovery.path": "/api"}
    routed = container(labels=route)
    assert backend(routed).labels == route
    assert backend(routed, labels={"discovery.path": "/"}).labels == route | {"discovery.path": "/"}
    assert backend(routed, conventions=False).labels == {}


def test_a_route_of_a_container_with_several_ports_names_the_port() -> None:
    """Otherwise chance decides which port is served: each is a service, and two cannot have one route."""
    several = ("web", "httpd", 80, 9090)
    candidates, problems = found(container(*several, labels={"discovery.host": "a.example.com", "discovery.zone": "b"}))
    assert {key: dict(each.backend.labels) for key, each in candidates.items()} == {
        "httpd-80/m:web:80": {"discovery.zone": "b"},
        "httpd-9090/m:web:9090": {"discovery.zone": "b"},
    }
    assert problems == {
        "container web": "discovery.host is ignored, since each of the ports 80, 9090 is a service of its own: write"
        " discovery.80.host"
    }
    one = {"discovery.host": "a.example.com", "discovery.80.host": "b.example.com", "SERVICE_9090_IGNORE": "1"}
    assert backend(container(*several, labels=one)).labels == {"discovery.host": "b.example.com"}
    one = {"discovery.80.host": "b.example.com", "discovery.path": "/x"}
    candidates, problems = found(container(*several, labels=one))
    assert [each.backend.labels.get("discovery.host") for each in candidates.values()] == ["b.example.com", None]
    assert problems == {}


def test_the_registered_ports() -> None:
    assert ports(container("c", "httpd", 80, 443)) == {"httpd-80 30080", "httpd-443 30443"}
    assert ports(container("c", "httpd", 8080)) == {"httpd 38080"}
    assert ports(container("c", "httpd", 80, 443), port=[80, 443]) == {"httpd-80 30080", "httpd-443 30443"}
    assert ports(container("c", "httpd", 80), port=[80, 443]) == {"httpd 30080"}
    named = {"SERVICE_443_NAME": "tls", "SERVICE_NAME": "web"}
    assert ports(container("c", "httpd", 80, 443, labels=named)) == {"web-80 30080", "tls 30443"}
    ignored = named | {"SERVICE_443_IGNORE": "yes"}
    assert ports(container("c", "httpd", 80, 443, labels=ignored)) == {"web 30080"}
    assert ports(container("c", "httpd", 80, 443, labels=named), port=80) == {"web 30080"}
    assert ports(container(labels={"SERVICE_IGNORE": "true"}, ports={})) == set()


def test_a_port_that_is_not_published_is_named_with_the_container() -> None:
    told = problem(container(), port=9000)
    assert told == (
        "the container does not publish port 9000, only 80/tcp: set 'port' to one of these, or start the container with"
        " -p 9000"
    )
    assert "any of the ports 81, 82, only 80/tcp" in problem(container(), port=[81, 82])
    assert "nor any other port: start the container with -p 9000" in problem(container(ports={}), names="*", port=9000)


def test_a_port_that_a_name_is_given_for_need_not_be_exposed_where_it_needs_no_publication() -> None:
    host: dict[str, Any] = {"ports": {}, "exposed": ((80, "tcp"),), "network_mode": "host"}
    named = {"SERVICE_8080_NAME": "shop"}
    assert ports(container(labels=named, **host)) == {"httpd-80 80", "shop 8080"}
    assert ports(container(env=named, **host), port=8080) == {"shop 8080"}
    assert ports(container(labels=named, **(host | {"exposed": ()}))) == {"shop 8080"}
    assert ports(container(labels=named, **host), conventions=False) == {"httpd 80"}
    own: dict[str, Any] = {"ports": {}, "networks": {"inside": Addresses("172.18.0.2", None)}}
    assert ports(container(labels=named, **own), network="inside") == {"shop 8080"}
    assert ports(container(labels=named, **own), networks="inside") == {"shop 8080"}
    assert "does not publish port 8080" in problem(container(labels=named, **own))
    assert ports(container(labels=named)) == {"httpd 30080"}  # published ports alone are reached from outside


def test_exposed_ports_count_where_own_addresses_are_announced() -> None:
    own: dict[str, Any] = {"exposed": ((81, "tcp"), (53, "udp")), "networks": {"bridge": Addresses("172.17.0.2", None)}}
    assert ports(container(**own), internal=True) == {"httpd-80 80", "httpd-81 81"}
    assert ports(container(**own | {"ports": {}}), internal=True) == {"httpd 81"}
    assert ports(container(**own)) == {"httpd 30080"}


def test_only_ports_with_a_name_are_registered_if_names_are_required() -> None:
    two = ("c", "httpd", 80, 443)
    assert ports(container(*two), explicit=True) == set()
    assert ports(container(*two, labels={"SERVICE_443_NAME": "tls"}), explicit=True) == {"tls 30443"}
    assert ports(container(*two, env={"SERVICE_NAME": "web"}), explicit=True) == {"web-80 30080", "web-443 30443"}
    assert ports(container(*two, labels={"com.docker.compose.service": "shop"}), explicit=True) == set()
    assert ports(container(*two, labels={"SERVICE_443_NAME": "tls"}), explicit=True, port=80) == set()


def test_a_container_without_a_port_is_left_out_unless_it_asks_to_be_registered() -> None:
    udp = {(53, "udp"): (Binding("0.0.0.0", 30053),)}
    assert found(container(ports={})) == ({}, {})
    assert found(container(ports=udp)) == ({}, {})
    assert "does not publish port 81" in problem(container(labels={"SERVICE_81_NAME": "x"}, ports={}))
    told = problem(container(labels={"SERVICE_NAME": "x"}, ports=udp))
    assert told == "the container does not publish a TCP port, only 53/udp: start the container with -p PORT"
    assert "a TCP port, nor any other port: start the container with -p PORT" in problem(container(ports={}), names="*")


def test_only_allowed_services_are_registered() -> None:
    evil = container(labels={"SERVICE_NAME": "database"})
    assert "the option 'services' does not allow the service 'database'" in problem(evil, services=["web-*"])
    assert "'httpd'" in problem(container(), services=["web-*"])
    assert backend(container(labels={"SERVICE_NAME": "web-1"}), services=["web-*"]).service == "web-1"
    assert problem(container(), services=[])


def test_no_container_takes_another_containers_place() -> None:
    victim = container("a", created_at=2)
    thief = container("b", created_at=1, labels={"SERVICE_ID": "m:a:80"})
    candidates, problems = found(thief, victim)
    assert {key: each.backend.port for key, each in candidates.items()} == {"httpd/m:a:80": 30080}
    assert candidates["httpd/m:a:80"].backend == backend(victim)
    assert problems == {"container b": "httpd/m:a:80 is already registered for container a: choose a different id"}
    younger = container("y", created_at=2, started_at=3, labels={"SERVICE_ID": "x"})
    older = container("o", created_at=1, started_at=4, labels={"SERVICE_ID": "x"})  # and was restarted
    assert found(younger, older)[1].keys() == {"container y"}


def test_a_stopping_container_is_withdrawn_or_drains() -> None:
    one, two = container("one"), container("two", labels={"SERVICE_NAME": "a b"})
    assert found(one, two, stopping="one")[0] == {}
    candidates, _ = found(one, two, stopping="one", on_stop="drain")
    (candidate,) = candidates.values()
    assert candidate.backend.state is State.DRAINING
    assert candidate.checks == ()
    successor = container("new", labels={"SERVICE_ID": "m:one:80"})
    candidates, problems = found(one, successor, stopping="one", on_stop="drain")
    assert candidates["httpd/m:one:80"].backend.state is State.ACTIVE
    assert problems == {}


def test_paused_and_stopped_containers_are_not_registered() -> None:
    assert found(container(paused=True)) == ({}, {})
    named = found(container(paused=True), names="web")
    assert named == ({}, {"container web": "the container is paused; it is registered once it is unpaused"})
    stopped = Container("0" * 64, "web", "httpd", ports={(80, "tcp"): (Binding("0.0.0.0", 1),)})
    assert found(stopped) == ({}, {})


def test_the_checks_of_a_container() -> None:
    assert probes(container()) == []
    assert probes(container(), check=True) == [HttpProbe(status=((100, 499),))]
    asking = container(labels={"SERVICE_CHECK_HTTP": "/health"})
    assert probes(asking) == [HttpProbe("/health")]  # what names a path means that it is there
    assert probes(asking, check={"status": "200"}) == [HttpProbe("/health", status=((200, 200),))]
    assert probes(asking, check={"type": "tcp"}) == [HttpProbe("/health")]
    assert probes(container(labels={"SERVICE_CHECK_TCP": "true"})) == [TcpProbe()]
    assert probes(asking, conventions=False) == []
    timed = container(labels={"SERVICE_CHECK_INTERVAL": "15s", "SERVICE_CHECK_TIMEOUT": "1s"})
    (check,) = found(timed, check=True)[0]["httpd/m:web:80"].checks
    assert (check.interval, check.timeout, check.fall) == (15, 1, 3)


def test_64_ports_of_a_container_are_registered_unless_the_configuration_names_more() -> None:
    published = range(1000, 1200)
    greedy = container("web", "httpd", *published)
    candidates, problems = found(greedy)
    assert len(candidates) == 64
    assert problems["container web"] == "the container publishes 200 ports; the first 64 are registered"
    assert len(found(greedy, port=list(published))[0]) == 200


def test_a_configured_command_is_not_replaced() -> None:
    candidates, problems = found(
        container(labels={"SERVICE_CHECK_HTTP": "/"}), check={"type": "command", "command": ["true"]}
    )
    (candidate,) = candidates.values()
    assert [type(check.probe) for check in candidate.checks] == [CommandProbe]
    assert "ignored" in problems["container web"]


def test_dockers_own_health() -> None:
    well, ill, starting = (container(health=health) for health in ("healthy", "unhealthy", "starting"))
    assert probes(well, check=False) == []
    reported = ReportedProbe(Outcome(Verdict.FAILING, "Docker reports that the container is unhealthy"))
    assert probes(ill, check=False) == [reported]
    assert probes(ill, check=False, use_health=False) == []
    assert len(probes(starting, check=True)) == 2
    kept = [check.on_failure for each in found(ill, check={"on_failure": "drain"})[0].values() for check in each.checks]
    assert kept == ["drain", "drain"]


texts = st.text(max_size=30)
claimed = st.dictionaries(
    st.builds(
        lambda port, name: f"SERVICE_{port}{name}",
        st.sampled_from(["", "80_", "443_"]),
        st.sampled_from(["NAME", "ID", "NETWORK", "CHECK_HTTP", "CHECK_CMD", "CHECK_TCP", "CHECK_INTERVAL", "X"])
        | texts,
    ),
    st.sampled_from(["web", "db", "/x", "http://evil/", "1s", "true", "m:a:80"]) | texts,
)


@given(st.lists(claimed, min_size=1, max_size=3), claimed)
def test_only_allowed_backends_are_registered_whatever_labels_say(
    labels: list[dict[str, str]], env: dict[str, str]
) -> None:
    containers = [container("abc"[place], "httpd", 80, 443, labels=each, env=env) for place, each in enumerate(labels)]
    candidates, problems = found(*containers, services=["web*"])
    for key, candidate in candidates.items():
        assert validate(candidate.backend) == candidate.backend
        assert key.startswith("web")
        assert candidate.backend.host == "10.0.0.1"
        for check in candidate.checks:
            assert isinstance(check.probe, HttpProbe | TcpProbe)
            assert check.probe.address is None
    for what, reason in problems.items():
        assert what.isprintable()
        assert reason.isprintable()
        assert len(reason) <= 1000
