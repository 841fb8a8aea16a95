"""The catalog of a snapshot: what is built again, names of resources, and services that cannot be built."""

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.type.v3 import http_pb2

from discovery import Snapshot, Update, diff
from discovery.testing import backend, snapshot
from discovery_xds.config import XdsConfig
from discovery_xds.protocol.catalog import Catalog, Kind, Resource, changes_between
from discovery_xds.resources import builder as builder_module
from discovery_xds.resources import outline
from discovery_xds.resources.builder import Builder

BIND = "127.0.0.1:8080"


def configured(**options: Any) -> XdsConfig:
    return XdsConfig.model_validate(options)


def update(state: Snapshot, before: Snapshot | None = None, **more: Any) -> Update:
    return Update(state, before, diff(before, state), **more)


def built(state: Snapshot, **options: Any) -> Catalog:
    return Builder(configured(**options)).build(update(state))


def contents(resource: Resource, message: Any) -> Any:
    (wrapped,) = discovery_pb2.DiscoveryResponse.FromString(resource.sotw).resources
    assert wrapped.Unpack(message)
    return message


def test_by_default_every_service_has_a_cluster_for_envoy_and_a_listener_for_grpc_clients() -> None:
    catalog = built(snapshot(backend(), backend(service="api")))
    assert set(catalog.of(Kind.CLUSTER)) == {"web", "api", "grpc/web", "grpc/api"}
    assert set(catalog.of(Kind.ENDPOINTS)) == {"web", "api"}
    assert set(catalog.of(Kind.LISTENER)) == {BIND, "web", "api"}
    assert set(catalog.of(Kind.ROUTES)) == {BIND}


def test_the_wildcard_of_envoy_has_no_resources_of_grpc_clients() -> None:
    listed = built(snapshot(backend())).listed
    assert listed[Kind.CLUSTER] == {"web"}
    assert listed[Kind.LISTENER] == {BIND}


def test_services_are_reached_by_their_names_and_an_only_service_by_any() -> None:
    def domains(state: Snapshot) -> list[str]:
        routing = contents(built(state).of(Kind.ROUTES)[BIND], route_pb2.RouteConfiguration())
        return [domain for host in routing.virtual_hosts for domain in host.domains]

    assert domains(snapshot(backend())) == ["*"]
    assert sorted(domains(snapshot(backend(), backend(service="api")))) == ["api", "api.*", "web", "web.*"]


def test_a_change_of_one_service_builds_the_endpoints_of_that_service_alone() -> None:
    first = snapshot(backend(), backend(service="api"))
    second = snapshot(backend(port=81), backend(service="api"), revision=2)
    second = Snapshot(2, {"api": first.services["api"], "web": second.services["web"]})
    maker = Builder(configured())
    one = maker.build(update(first))
    assert maker.built == 2
    two = maker.build(update(second, first))
    assert maker.built == 3
    changes = changes_between(one, two)
    assert {kind: names for kind, names in changes.items() if names} == {Kind.ENDPOINTS: {"web"}}
    assert two.revision == 2


def test_a_new_address_of_a_host_name_builds_endpoints_and_an_equal_one_does_not() -> None:
    state = snapshot(backend(host="db.example", port=1))
    maker = Builder(configured())
    one = maker.build(update(state, addresses={("db.example", 1): ("10.0.0.1",)}))
    same = maker.build(update(state, state, addresses={("db.example", 1): ("10.0.0.1",)}))
    assert not any(changes_between(one, same).values())
    two = maker.build(update(state, state, addresses={("db.example", 1): ("10.0.0.2",)}))
    assert changes_between(same, two)[Kind.ENDPOINTS] == {"web"}
    assert maker.problems == {}
    maker.build(update(state, state, addresses={}))
    assert maker.problems == {"service web": "no address is known for db.example"}


def test_versions_follow_from_the_contents_alone() -> None:
    state = snapshot(backend(), backend(service="api"))
    assert not any(changes_between(built(state), built(state)).values())


def test_a_service_that_is_configured_stays_without_backends_and_others_are_left_out() -> None:
    catalog = built(snapshot(backend(service="other")), services={"web": {}})
    assert set(catalog.of(Kind.ENDPOINTS)) == {"web"}
    assert catalog.listed[Kind.CLUSTER] == {"web"}


def test_an_empty_registry_has_a_listener_without_routes() -> None:
    catalog = built(snapshot())
    assert set(catalog.of(Kind.LISTENER)) == {BIND}
    assert not contents(catalog.of(Kind.ROUTES)[BIND], route_pb2.RouteConfiguration()).virtual_hosts


def test_a_service_that_cannot_be_built_keeps_its_endpoints_and_hurts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    first = snapshot(backend(), backend(service="api"))
    second = snapshot(backend(port=81), backend(service="api", port=81), revision=2)
    maker = Builder(configured())
    one = maker.build(update(first))
    build = builder_module.Endpoints.build

    def fails(self: Any, *arguments: Any) -> Any:
        if self._name == "web":
            raise ValueError("no")
        return build(self, *arguments)

    monkeypatch.setattr(builder_module.Endpoints, "build", fails)
    two = maker.build(update(second, first))
    assert changes_between(one, two)[Kind.ENDPOINTS] == {"api"}
    assert maker.problems == {"service web": "it has its former endpoints: ValueError: no"}
    monkeypatch.undo()
    three = maker.build(update(second, second))
    assert changes_between(two, three)[Kind.ENDPOINTS] == {"web"}
    assert maker.problems == {}


def test_labels_select_backends_and_service_names_another_service() -> None:
    state = snapshot(backend(id="a", labels={"v": "1"}), backend(id="b", port=81, labels={"v": "2"}))
    catalog = built(state, services={"two": {"service": "web", "labels": {"v": 2}}})
    assert b"two" in catalog.of(Kind.ENDPOINTS)["two"].sotw
    same = built(snapshot(backend(service="two", id="b", port=81)), services={"two": {}})
    assert catalog.of(Kind.ENDPOINTS)["two"].version == same.of(Kind.ENDPOINTS)["two"].version


@pytest.mark.parametrize(
    ("balance", "envoy", "client"),
    [
        ("roundrobin", "ROUND_ROBIN", "ROUND_ROBIN"),
        ("leastconn", "LEAST_REQUEST", "ROUND_ROBIN"),
        ("random", "RANDOM", "ROUND_ROBIN"),
        ("source", "RING_HASH", "ROUND_ROBIN"),
        ("hdr(X-User)", "RING_HASH", "RING_HASH"),
    ],
)
def test_each_client_gets_a_policy_that_it_knows(balance: str, envoy: str, client: str) -> None:
    clusters = built(snapshot(backend()), services={"web": {"balance": balance}}).of(Kind.CLUSTER)
    policy = cluster_pb2.Cluster.LbPolicy.Name
    assert policy(contents(clusters["web"], cluster_pb2.Cluster()).lb_policy) == envoy
    grpc_cluster = contents(clusters["grpc/web"], cluster_pb2.Cluster())
    assert policy(grpc_cluster.lb_policy) == client
    assert grpc_cluster.eds_cluster_config.service_name == "web"


def test_checks_have_the_times_and_counts_of_the_options() -> None:
    check = {"path": "/up", "status": "200,300-399", "interval": "4s", "fall": 5, "rise": 4}
    cluster = built(snapshot(backend()), services={"web": {"check": check}}).of(Kind.CLUSTER)["web"]
    (found,) = contents(cluster, cluster_pb2.Cluster()).health_checks
    window = contents(cluster, cluster_pb2.Cluster()).common_lb_config.update_merge_window
    assert 0 < window.ToMilliseconds() < 100  # else a new backend waits a second for its first request
    assert (found.interval.seconds, found.timeout.seconds) == (4, 2)
    assert (found.unhealthy_threshold.value, found.healthy_threshold.value) == (5, 4)
    ranges = [(each.start, each.end) for each in found.http_health_check.expected_statuses]
    assert (found.http_health_check.path, ranges) == ("/up", [(200, 201), (300, 400)])
    without = built(snapshot(backend()), services={"web": {"check": False}}).of(Kind.CLUSTER)["web"]
    assert not contents(without, cluster_pb2.Cluster()).health_checks


def test_the_listener_of_a_grpc_client_leads_to_its_cluster() -> None:
    listener = contents(built(snapshot(backend())).of(Kind.LISTENER)["web"], listener_pb2.Listener())
    manager = http_connection_manager_pb2.HttpConnectionManager()
    assert listener.api_listener.api_listener.Unpack(manager)
    assert manager.route_config.virtual_hosts[0].routes[0].route.cluster == "grpc/web"


@pytest.mark.parametrize("name", ["web", "grpc/web"])
def test_no_number_of_requests_is_too_large(name: str) -> None:
    """The default of clients is 1,024 requests at a time; the limit is that of open files, as behind HAProxy."""
    cluster = contents(built(snapshot(backend())).of(Kind.CLUSTER)[name], cluster_pb2.Cluster())
    (limits,) = cluster.circuit_breakers.thresholds
    most = {limits.max_connections.value, limits.max_pending_requests.value, limits.max_requests.value}
    assert {*most, limits.max_retries.value} == {2**32 - 1}


def test_checks_of_backends_that_speak_http_2_speak_http_2() -> None:
    def codec(**options: Any) -> int:
        services = {"web": {"check": {"path": "/up"}, **options}}
        cluster = built(snapshot(backend()), services=services).of(Kind.CLUSTER)["web"]
        (check,) = contents(cluster, cluster_pb2.Cluster()).health_checks
        return int(check.http_health_check.codec_client_type)

    assert (codec(), codec(http2=True)) == (http_pb2.HTTP1, http_pb2.HTTP2)


TLS = {
    "bind": {"address": BIND, "certificate": ["/etc/a.pem", "/etc/b.pem"], "client_ca": "/etc/clients.pem"},
    "backend_tls": {"ca": "/etc/ca.pem", "name": "web.internal", "certificate": "/etc/own.pem"},
}


def test_envoy_is_sent_the_paths_of_keys_and_no_key() -> None:
    catalog = built(snapshot(backend()), services={"web": TLS})
    secrets = {name: contents(each, secret_pb2.Secret()) for name, each in catalog.of(Kind.SECRET).items()}
    assert sorted(secrets) == [
        "ca:/etc/ca.pem",
        "ca:/etc/clients.pem",
        "certificate:/etc/a.pem",
        "certificate:/etc/b.pem",
        "certificate:/etc/own.pem",
    ]
    certificate = secrets["certificate:/etc/a.pem"].tls_certificate
    assert (certificate.certificate_chain.filename, certificate.private_key.filename) == ("/etc/a.pem", "/etc/a.pem")
    assert secrets["ca:/etc/ca.pem"].validation_context.trusted_ca.filename == "/etc/ca.pem"


def test_a_bind_with_certificates_is_a_listener_with_tls_and_clients_need_a_certificate_of_the_ca() -> None:
    def context(**options: Any) -> Any:
        catalog = built(snapshot(backend()), services={"web": {**TLS, **options}})
        (chain,) = contents(catalog.of(Kind.LISTENER)[BIND], listener_pb2.Listener()).filter_chains
        found = tls_pb2.DownstreamTlsContext()
        assert chain.transport_socket.typed_config.Unpack(found)
        return found

    http, tcp = context(), context(mode="tcp")
    names = [each.name for each in http.common_tls_context.tls_certificate_sds_secret_configs]
    assert names == ["certificate:/etc/a.pem", "certificate:/etc/b.pem"]
    assert http.require_client_certificate.value
    assert http.common_tls_context.validation_context_sds_secret_config.name == "ca:/etc/clients.pem"
    assert list(http.common_tls_context.alpn_protocols) == ["h2", "http/1.1"]
    assert list(tcp.common_tls_context.alpn_protocols) == []


@pytest.mark.parametrize(("name", "sni", "kind"), [("web.internal", "web.internal", "DNS"), ("::1", "", "IP_ADDRESS")])
def test_the_certificates_of_backends_need_the_name(name: str, sni: str, kind: str) -> None:
    options = {**TLS, "backend_tls": {"ca": "/etc/ca.pem", "name": name}}
    clusters = built(snapshot(backend()), services={"web": options}).of(Kind.CLUSTER)
    context = tls_pb2.UpstreamTlsContext()
    assert contents(clusters["web"], cluster_pb2.Cluster()).transport_socket.typed_config.Unpack(context)
    combined = context.common_tls_context.combined_validation_context
    (matcher,) = combined.default_validation_context.match_typed_subject_alt_names
    assert (context.sni, matcher.SanType.Name(matcher.san_type), matcher.matcher.exact) == (sni, kind, name)
    assert combined.validation_context_sds_secret_config.name == "ca:/etc/ca.pem"
    assert clusters["web"].needs == {(Kind.ENDPOINTS, "web"), (Kind.SECRET, "ca:/etc/ca.pem")}
    assert not contents(clusters["grpc/web"], cluster_pb2.Cluster()).HasField("transport_socket")


def test_of_names_that_differ_in_case_alone_the_first_has_the_routes_and_the_other_is_told() -> None:
    maker = Builder(configured())
    catalog = maker.build(update(snapshot(*(backend(service=name) for name in ("web", "Web", "api")))))
    routing = contents(catalog.of(Kind.ROUTES)[BIND], route_pb2.RouteConfiguration())
    targets = {host.name: host.routes[0].route.cluster for host in routing.virtual_hosts}
    assert targets == {"web": "Web", "web.*": "Web", "api": "api", "api.*": "api"}
    assert list(maker.problems) == ["service web"]
    assert "'Web'" in maker.problems["service web"]


def test_all_problems_of_a_service_are_told() -> None:
    maker = Builder(configured())
    state = snapshot(backend(service="Web"), backend(host="db.example", service="web"))
    maker.build(update(state, addresses={}))
    (problem,) = maker.problems.values()
    assert "it has no route" in problem
    assert "no address is known for db.example" in problem


FAULTS = {
    "envoy_cluster": "service web",
    "client_cluster": "service web",
    "api_listener": "service web",
    "route_action": "service web",
    "secrets_of_backends": "service web",
    "http_listener": f"listener {BIND}",
    "secrets_of_listener": f"listener {BIND}",
    "tcp_listener": "listener 127.0.0.1:1",
}
BESIDE: dict[str, Any] = {
    "tcp": {"mode": "tcp", "bind": "127.0.0.1:1"},
    "api": {"bind": "127.0.0.1:2", "hosts": "api"},
}


@pytest.mark.parametrize("faulty", FAULTS)
def test_a_part_that_cannot_be_built_stays_as_before_and_hurts_no_other(
    faulty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a change of the configuration, which builds all parts again."""
    state = snapshot(*(backend(service=name) for name in ("web", "tcp", "api")))
    one = built(state, services={"web": TLS, **BESIDE})
    other = {**TLS, "balance": "random", "backend_tls": {"ca": "/etc/ca.pem", "name": "other.internal"}}
    services = {"web": other, **{name: {**each, "balance": "random"} for name, each in BESIDE.items()}}
    config, make = configured(services=services), getattr(outline, faulty)

    def fails(first: Any, *arguments: Any) -> Any:
        if first in ("web", BIND, "127.0.0.1:1", config.listeners[BIND], config.services["web"].backend_tls):
            raise ValueError("no")
        return make(first, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(outline, faulty, fails)
        maker = Builder(config, one)
        two = maker.build(update(state))
    (what, problem), *more = maker.problems.items()
    assert (what, more) == (FAULTS[faulty], [])
    assert "ValueError: no" in problem
    changed = {kind: set(names) for kind, names in changes_between(one, two).items()}
    assert {"api", "tcp"} <= changed[Kind.CLUSTER]
    assert two.of(Kind.LISTENER).keys() == one.of(Kind.LISTENER).keys()
    assert two.of(Kind.CLUSTER).keys() == one.of(Kind.CLUSTER).keys()
    assert two.of(Kind.SECRET).keys() >= {"certificate:/etc/a.pem", "ca:/etc/clients.pem", "ca:/etc/ca.pem"}
    assert ("web" not in changed[Kind.CLUSTER]) == (what == "service web")
    three = maker.build(update(state))
    assert maker.problems == {}
    assert not any(changes_between(built(state, services=services), three).values())


def test_a_new_service_that_cannot_be_built_is_left_out_and_answered_with_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, *_: Any) -> Any:
        if name == "web":
            raise ValueError("no")
        return make(name, *_)

    make = outline.envoy_cluster
    monkeypatch.setattr(outline, "envoy_cluster", fails)
    catalog = built(snapshot(backend(), backend(service="api")))
    assert set(catalog.of(Kind.CLUSTER)) == {"api", "grpc/api"}
    routing = contents(catalog.of(Kind.ROUTES)[BIND], route_pb2.RouteConfiguration())
    targets = {host.name: host.routes[0].route.cluster for host in routing.virtual_hosts}
    assert targets["web"] == "web"  # not a less specific route, which may lead to another service


def test_a_service_whose_addresses_cannot_be_told_hurts_no_other() -> None:
    def addresses_of(self: Update, each: Any) -> Any:
        raise ValueError("no")

    state = snapshot(backend(), backend(service="db", host="db.example"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Update, "addresses_of", lambda self, each: addresses_of(self, each) if each.is_named else (each.host,)
        )
        maker = Builder(configured())
        catalog = maker.build(update(state))
    assert set(catalog.of(Kind.ENDPOINTS)) == {"web"}
    assert maker.problems == {"service db": "it has no endpoints: ValueError: no"}


def test_a_tcp_service_has_a_listener_without_routes() -> None:
    catalog = built(snapshot(backend()), services={"web": {"mode": "tcp", "bind": "unix:/run/web.sock"}})
    listener = contents(catalog.of(Kind.LISTENER)["unix:/run/web.sock"], listener_pb2.Listener())
    assert listener.address.pipe.path == "/run/web.sock"
    assert catalog.of(Kind.ROUTES) == {}
