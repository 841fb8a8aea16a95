"""Labels of services, and what the ingress mesh publishes, by recorded answers: where no Swarm can run."""

from dataclasses import replace

import pytest
from docker.errors import APIError
from engine_api import Api, served

from discovery.addresses import MachineFacts
from discovery_docker.candidates import Findings, find_candidates
from discovery_docker.config import DockerConfig
from discovery_docker.container import Addresses, Container
from discovery_docker.machine import Machine
from discovery_docker.mesh import ADVICE
from discovery_docker.rules import Rules
from discovery_docker.swarm import SERVICE, Services

SHOP = "hg3dy4fmr29v13eef1649ra8x"
NO_MANAGER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this"
    " command on a manager node or promote the current node to a manager."
)


def has(api: Api, **labels: str) -> None:
    """Give the service its labels."""
    api.answers[SHOP] = (200, {"ID": SHOP, "Spec": {"Name": "shop", "Labels": labels}})


def task(**labels: str) -> Container:
    return Container("1" * 64, "shop.1.jge6xj3ebeub", running=True, labels={SERVICE: SHOP, **labels})


def test_labels_of_the_container_override_those_of_its_service() -> None:
    api = Api()
    has(api, SERVICE_NAME="of-service", SERVICE_TAGS="a")
    with served(api) as client:
        completed = Services({}, client).complete(task(SERVICE_NAME="own"))
    assert completed.labels == {SERVICE: SHOP, "SERVICE_NAME": "own", "SERVICE_TAGS": "a"}
    assert completed.variables.request(80).service == "own"


def test_a_service_is_asked_for_once_until_it_has_changed() -> None:
    api = Api()
    has(api, zone="a")
    with served(api) as client:
        services = Services({}, client)
        services.complete(task())
        assert services.complete(task()).labels["zone"] == "a"
        assert len(api.asked) == 1
        has(api, zone="b")
        services.changed(SHOP)
        assert services.complete(task()).labels["zone"] == "b"
        has(api, zone="c")
        services.expire([SHOP])
        assert services.complete(task()).labels["zone"] == "c"


def test_a_container_of_no_service_asks_nothing() -> None:
    api = Api()
    container = Container("1" * 64, "web-1", running=True)
    with served(api) as client:
        assert Services({}, client).complete(container) is container
    assert api.asked == []


@pytest.mark.parametrize("status", [403, 406, 503])
def test_a_node_that_is_no_manager_is_asked_once_and_what_was_known_stands(status: int) -> None:
    api = Api()
    api.answers[SHOP] = (status, {"message": NO_MANAGER})
    with served(api) as client:
        services = Services({}, client)
        assert services.complete(task()) == task()
        assert services.complete(task()) == task()
        assert len(api.asked) == 1
        assert services.refusal == NO_MANAGER
        services.expire([SHOP])
        has(api, zone="a")
        assert services.complete(task()).labels["zone"] == "a"
        services.expire([SHOP])
        api.answers[SHOP] = (status, {"message": NO_MANAGER})
        assert services.complete(task()).labels["zone"] == "a"
        services.expire([])
        assert services.complete(task()) == task()


@pytest.mark.parametrize("status", [500, 503])
def test_a_swarm_without_a_leader_fails_inspections_only_of_services_that_nobody_knows(status: int) -> None:
    """A task that was registered without the labels of its service could have another name."""
    api = Api()
    api.answers[SHOP] = (status, {"message": "The swarm does not have a leader."})
    with served(api) as client:
        services = Services({}, client)
        for _ in range(2):
            with pytest.raises(APIError):
                services.complete(task())
        assert services.refusal is None
        has(api, zone="a")
        assert services.complete(task()).labels["zone"] == "a"
        services.changed(SHOP)
        api.answers[SHOP] = (status, {"message": "The swarm does not have a leader."})
        assert services.complete(task()).labels["zone"] == "a"
        has(api, zone="b")
        assert services.complete(task()).labels["zone"] == "b"


def test_a_request_that_is_not_answered_is_repeated() -> None:
    api = Api()
    api.answers[SHOP] = None
    with served(api, timeout=0.2) as client:
        services = Services({}, client)
        for _ in range(2):
            with pytest.raises(OSError, match="timed out"):
                services.complete(task())
        client.timeout = 60.0
        has(api, zone="a")
        assert services.complete(task()).labels["zone"] == "a"


def test_a_service_that_is_gone_has_the_labels_that_it_had() -> None:
    api = Api()
    has(api, zone="a")
    with served(api) as client:
        services = Services({}, client)
        services.complete(task())
        del api.answers[SHOP]
        services.changed(SHOP)
        assert services.complete(task()).labels["zone"] == "a"


def test_another_error_fails_the_inspection() -> None:
    api = Api()
    api.answers[SHOP] = (500, {"message": "rpc error"})
    with served(api) as client:
        services = Services({}, client)
        with pytest.raises(APIError):
            services.complete(task())
        has(api, zone="a")
        assert services.complete(task()).labels["zone"] == "a"


@pytest.mark.parametrize("document", [[], {}, {"Spec": None}, {"Spec": {"Labels": 1}}, {"Spec": {"Labels": {"a": 1}}}])
def test_a_malformed_service_has_no_labels(document: object) -> None:
    api = Api()
    api.answers[SHOP] = (200, document)
    with served(api) as client:
        assert Services({}, client).complete(task()) == task()


# As `docker inspect` tells of a task whose service has `--publish 8080:80`, of Docker 20.10 on a kernel without IPVS.
BEHIND_MESH = Container(
    "2" * 64,
    "mesh.1.klnosoiqwp8v",
    running=True,
    labels={"com.docker.swarm.service.name": "mesh"},
    exposed=((80, "tcp"),),
    networks={"ingress": Addresses("10.0.0.4", None)},
)


def found(container: Container, **options: object) -> Findings:
    rules = Rules.of(DockerConfig.model_validate(options))
    return find_candidates([container], frozenset(), rules, Machine("host", MachineFacts()))


@pytest.mark.parametrize("options", [{}, {"networks": "*"}, {"networks": "inside"}])
def test_what_the_mesh_publishes_is_left_out_with_advice(options: dict[str, object]) -> None:
    """Whether the mesh works or not: its address is every node's, and its port is no container's."""
    findings = found(BEHIND_MESH, **options)
    assert findings.skipped == {"container mesh.1.klnosoiqwp8v": ADVICE}
    assert (findings.candidates, findings.problems) == ([], {})


@pytest.mark.parametrize("options", [{"names": "mesh.*"}, {"names": "mesh.*", "port": 80}, {"internal": True}])
def test_a_container_behind_the_mesh_that_the_configuration_asks_for_is_a_problem(options: dict[str, object]) -> None:
    findings = found(BEHIND_MESH, **options)
    assert findings.problems == {"container mesh.1.klnosoiqwp8v": ADVICE}
    assert findings.candidates == []


def test_behind_the_mesh_and_on_an_allowed_overlay_network_the_address_is_that_of_the_network() -> None:
    networks = {"ingress": Addresses("10.0.0.4", None), "inside": Addresses("10.0.1.2", None)}
    container = replace(BEHIND_MESH, networks=networks)
    for options in ({"networks": "*"}, {"networks": "inside"}, {"internal": True}, {"network": "inside"}):
        (candidate,) = found(container, **options).candidates
        assert (candidate.candidate.backend.host, candidate.candidate.backend.port) == ("10.0.1.2", 80)
        assert candidate.candidate.backend.service == "mesh"
