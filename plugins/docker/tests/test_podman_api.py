"""What Podman's own API adds to a container, by recorded answers: also where Podman fails for a moment."""

import pytest
from docker.errors import APIError
from engine_api import Api, served

from discovery.testing import within
from discovery_docker.container import Container
from discovery_docker.engine import _inspect_container
from discovery_docker.podman import Podman
from discovery_docker.swarm import Services

ID, IMAGE = "1" * 64, "2" * 64
INFRA = Container(ID, "0123456789ab-infra", running=True)
MEMBER = Container(ID, "web", running=True, image_id=IMAGE, network_mode=f"container:{'3' * 64}")
IS_INFRA = (200, {"IsInfra": True})
DECLARES = (200, {"Config": {"ExposedPorts": {"80/tcp": {}}}})


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize(("container", "id_", "answer"), [(INFRA, ID, IS_INFRA), (MEMBER, IMAGE, DECLARES)])
def test_a_failure_is_no_fact_and_the_fact_is_asked_for_once(
    container: Container, id_: str, answer: tuple[int, object], status: int
) -> None:
    api = Api()
    api.answers[id_] = (status, {"message": "database is locked"})
    with served(api) as client:
        podman = Podman(client)
        with pytest.raises(APIError) as raised:
            podman.complete(container)
        assert not raised.value.is_client_error()
        assert "database is locked" in str(raised.value.explanation)
        api.answers[id_] = answer
        for _ in range(2):
            completed = podman.complete(container)
            assert (completed.is_infra, completed.exposed) == ((True, ()) if id_ == ID else (False, ((80, "tcp"),)))
        assert len(api.asked) == 2


@pytest.mark.parametrize("container", [INFRA, MEMBER])
@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_an_answer(container: Container, status: int) -> None:
    """As of a proxy of the API that allows less."""
    api = Api()
    api.answers = {ID: (status, {"message": "no"}), IMAGE: (status, {"message": "no"})}
    with served(api) as client:
        podman = Podman(client)
        assert [podman.complete(container) for _ in range(2)] == [container, container]
        assert len(api.asked) == 1


def test_an_engine_that_does_not_answer_is_asked_again() -> None:
    api = Api()
    api.answers[ID] = None
    with served(api) as client:
        podman = Podman(client, timeout=within(0.5))
        with pytest.raises(OSError, match="timed out"):
            podman.complete(INFRA)
        api.answers[ID] = IS_INFRA
        assert podman.complete(INFRA).is_infra


def test_a_failure_to_tell_the_names_of_an_image_fails_the_inspection() -> None:
    """Otherwise a container that is selected by its image's name would be withdrawn for a moment."""
    api = Api()
    document = {"Id": ID, "Image": IMAGE, "State": {"Running": True}, "Config": {"Image": IMAGE}}
    api.answers = {ID: (200, document), IMAGE: (500, {"message": "layer does not exist"})}
    with served(api) as client:
        services = Services({}, client)
        with pytest.raises(APIError):
            _inspect_container(client, None, services, ID)
        api.answers[IMAGE] = (403, {"message": "no"})
        found = _inspect_container(client, None, services, ID)
        assert found is not None
        assert found.image_names == ()
        api.answers[IMAGE] = (200, {"RepoTags": ["web:1"]})
        found = _inspect_container(client, None, services, ID)
        assert found is not None
        assert found.image_names == ("web:1",)
