"""What the page for users of Nomad says of tasks: containers as the Docker driver and the Podman driver start them."""

from finding import Finder, container

from discovery_docker.config import DockerConfig
from discovery_docker.container import Binding, Container
from discovery_docker.rules import Rules

TASK = "web-60fdc69b-65cb-8ece-8554-df49321b3462"
"""The name of a task's container: the task, and the id of its allocation."""
LABELS = {
    "com.hashicorp.nomad.alloc_id": "60fdc69b-65cb-8ece-8554-df49321b3462",
    "com.hashicorp.nomad.job_name": "shop",
    "com.hashicorp.nomad.task_name": "web",
}
"""Those of `extra_labels = ["job_name", "task_name"]`; the first one is always there."""

FINDER = Finder(lambda **options: Rules.of(DockerConfig.model_validate(options)))


def task(address: str = "10.0.0.9", **more: object) -> Container:
    """Return the container of a task whose port 8080 Nomad has published at the client's address."""
    ports = {(8080, "tcp"): (Binding(address, 21510),), (8080, "udp"): (Binding(address, 21510),)}
    return container(TASK, "example.com/team/httpd:2.4", **{"ports": ports, "labels": LABELS, **more})


def test_a_task_is_registered_at_the_clients_address_by_its_name() -> None:
    backend = FINDER.backend(task())
    assert (backend.service, backend.id) == ("web", f"m:{TASK}:8080")
    assert (backend.host, backend.port) == ("10.0.0.9", 21510)


def test_the_name_may_be_that_of_the_job_or_a_label_of_the_task() -> None:
    assert FINDER.backend(task(), service_from="nomad-job").service == "shop-web"
    assert FINDER.backend(task(labels={**LABELS, "SERVICE_NAME": "front"})).service == "front"
    assert FINDER.backend(task(labels={})).service == "httpd"


def test_a_task_without_a_port_at_the_engine_is_left_out() -> None:
    """As in a group with `network { mode = "bridge" }`, whose ports Nomad itself maps."""
    candidates, problems = FINDER.found(task(ports={}, exposed=((8080, "tcp"),), network_mode=f"container:{'3' * 64}"))
    assert (candidates, problems) == ({}, {})


def test_a_client_at_a_loopback_address_needs_an_option() -> None:
    """As of `nomad agent -dev`."""
    assert "'loopback = true'" in FINDER.problem(task("127.0.0.1"))
    assert FINDER.backend(task("127.0.0.1"), loopback=True).host == "127.0.0.1"
