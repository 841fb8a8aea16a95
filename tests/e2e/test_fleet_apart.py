"""The records of daemons are in no listing of services: neither of a consumer, nor of a command, nor of DNS and xDS."""

import json
import subprocess
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import grpc
import pytest
from daemons import DISCOVERY, Starter
from envoy.service.discovery.v3 import discovery_pb2
from etcds import etcd
from fleets import Fleet, await_states

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, free_port, within

pytestmark = [pytest.mark.warm, pytest.mark.timeout(300)]

__all__ = ["etcd"]

_CLUSTERS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def listed(*arguments: str) -> str:
    line = [*DISCOVERY, *arguments, "--config", "/dev/null"]
    return subprocess.run(line, capture_output=True, text=True, timeout=within(60), check=True).stdout


def clusters(port: int) -> set[str]:
    """The names that a wildcard subscription to clusters gets from the xDS server."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )
        request = discovery_pb2.DiscoveryRequest(type_url=_CLUSTERS)
        request.node.id = "test"
        answers = call(iter([request]), timeout=within(30), wait_for_ready=True)
        resources = next(answers).resources
        answers.cancel()
    return {name for name in ("web", "daemons") for each in resources if name.encode() in each.value}


def test_no_listing_of_services_has_a_daemon(tmp_path: Path, start_daemon: Starter, etcd: EmbeddedEtcd) -> None:
    fleet = Fleet(tmp_path, start_daemon, etcd)
    dns_port, xds_port = free_port(), free_port()
    listening = [f"dns.listen=127.0.0.1:{dns_port}", f"xds.listen=127.0.0.1:{xds_port}"]
    settings = [each for one in listening for each in ("--set", one)]
    daemon = fleet("one", "--plugin", "dns", "--plugin", "xds", *settings)
    other = fleet("two")
    await_states(daemon, {daemon.admin: "ok", other.admin: "ok"})
    assert len(fleet.keys()) == 2
    etcd.ctl("put", f"{fleet.top}/services/web/1", "10.0.0.1:80")
    eventually_sync(lambda: daemon.get("/api/status")[1]["backends"] == 1 and daemon.is_ready(), timeout=60)
    seen = tmp_path / "one.seen"
    eventually_sync(lambda: seen.exists() and "web" in seen.read_text(), timeout=60)

    assert set(seen.read_text().split()) == {"web"}, "what a consumer was told, from the start"
    document = daemon.get("/api/snapshot")[1]
    assert list(document["services"]) == ["web"]
    assert document["rejected"] == []
    told = json.loads(listed("services", "--json", "--registry", fleet.registry))
    assert list(told["services"]) == ["web"]
    assert daemon.admin not in listed("services", "--registry", fleet.registry)
    changes = daemon.get("/api/history")[1]["changes"]
    assert {change["key"] for each in changes for change in each["changes"]} <= {"web/1"}

    def answer(name: str) -> dns.message.Message:
        asked = dns.message.make_query(f"{name}.service.internal.", "A")
        return dns.query.tcp(asked, "127.0.0.1", port=dns_port, timeout=within(10))

    eventually_sync(lambda: answer("web").rcode() == dns.rcode.NOERROR and answer("web").answer, timeout=60)
    assert answer("daemons").rcode() == dns.rcode.NXDOMAIN
    eventually_sync(lambda: clusters(xds_port) == {"web"}, timeout=60)
