"""The labels of a container say under which name HAProxy serves the container."""

import http.client

from docker_fixtures import Provide
from docker_lab import DockerEngine
from histories import RegistryHistory

from discovery.testing import eventually_sync, free_port, require_program, within


def test_a_container_is_served_under_the_name_that_its_labels_ask_for(
    docker_engine: DockerEngine, registry: RegistryHistory, provide: Provide
) -> None:
    """Issue 12, C.3."""
    require_program("haproxy")
    port = free_port()
    routes = ("--set", f"haproxy.bind=127.0.0.1:{port}", "--set", 'haproxy.label_routes=["*.example.com"]')
    provide("--plugin", "haproxy", *routes)
    docker_engine.run("evil", "busybox", labels={"SERVICE_NAME": "evil", "discovery.host": "www.example.org"})
    docker_engine.run("plain", "busybox", labels={"SERVICE_NAME": "plain"})
    registry.lists("evil", "plain")
    asked = {"discovery.host": "shop.example.com", "discovery.path": "/index.html"}
    docker_engine.run("shop", "busybox", labels={"SERVICE_NAME": "shop", **asked})

    def status(host: str, path: str = "/") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within(5))
        connection.request("GET", path, headers={"Host": host})
        with connection.getresponse() as answer:
            return answer.status

    eventually_sync(lambda: status("shop.example.com", "/index.html") == 200, "the route", timeout=30)
    assert [status(host) for host in ("shop.example.com", "www.example.org", "plain")] == [503] * 3
