"""The service that a container without SERVICE_NAME is registered for: an ordered list of names that it already has."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from discovery.addresses import MachineFacts
from discovery.fields import is_service_name
from discovery_docker.candidates import find_candidates
from discovery_docker.config import DockerConfig
from discovery_docker.container import Binding, Container
from discovery_docker.machine import Machine
from discovery_docker.rules import Rules

COMPOSE = {"com.docker.compose.service": "shop", "com.docker.compose.project": "prod"}
PODMAN_COMPOSE = {"io.podman.compose.service": "shop", "io.podman.compose.project": "prod"}
SWARM = {"com.docker.swarm.service.name": "prod_shop"}
NOMAD = {"com.hashicorp.nomad.task_name": "web", "com.hashicorp.nomad.job_name": "shop"}


def container(image: str = "team/app:1", **labels: str) -> Container:
    ports = {(80, "tcp"): (Binding("0.0.0.0", 30080),)}
    return Container("c" * 64, "prod-shop-1", image, running=True, ports=ports, labels=labels)


def named(which: Container, **options: Any) -> str:
    """Return the service, or the problem."""
    rules = Rules.of(DockerConfig.model_validate(options))
    findings = find_candidates([which], frozenset(), rules, Machine("m", MachineFacts(primary={4: "10.0.0.1"})))
    for each in findings.candidates:
        return each.candidate.backend.service
    return findings.problems["container prod-shop-1"]


@pytest.mark.parametrize(
    ("labels", "service"),
    [
        (COMPOSE, "shop"),
        (PODMAN_COMPOSE, "shop"),
        (SWARM, "prod_shop"),
        (NOMAD, "web"),
        ({"PODMAN_SYSTEMD_UNIT": "shop.service"}, "shop"),
        ({"PODMAN_SYSTEMD_UNIT": "shop@2.service"}, "shop"),
        ({"PODMAN_SYSTEMD_UNIT": "container-shop.service"}, "shop"),
        ({}, "app"),
        ({"com.docker.compose.service": ""}, "app"),
        (COMPOSE | SWARM | NOMAD, "shop"),
        (SWARM | NOMAD, "prod_shop"),
        (COMPOSE | {"SERVICE_NAME": "mine"}, "mine"),
    ],
)
def test_a_name_that_people_gave_comes_before_the_image(labels: dict[str, str], service: str) -> None:
    assert named(container(**labels)) == service


def test_the_container_is_the_last_resort() -> None:
    assert named(container("sha256:" + "0" * 64)) == "prod-shop-1"


@pytest.mark.parametrize(
    ("order", "service"),
    [
        ("image", "app"),
        ("container", "prod-shop-1"),
        (["swarm", "container"], "prod-shop-1"),
        (["compose-project", "image"], "prod-shop"),
        ("nomad-job", "shop-web"),
        ("{tier}", "front"),
        ("{tier}.{com.docker.compose.service}-x", "front.shop-x"),
        (["{absent}", "{tier}{absent}", "{tier}"], "front"),
    ],
)
def test_the_order_is_configurable(order: str | list[str], service: str) -> None:
    labelled = container(**(COMPOSE | NOMAD | {"tier": "front"}))
    assert named(labelled, service_from=order) == service


def test_without_any_name_the_container_is_a_problem() -> None:
    told = named(container(), service_from=["compose", "swarm"])
    assert told == "nothing in 'service_from' names the container's service: set SERVICE_NAME or 'service'"
    assert "the image has no name" in named(container("sha256:" + "0" * 64), service_from="image")


def test_a_label_that_is_no_service_name_is_a_problem_and_not_another_name() -> None:
    told = named(container(**{"com.docker.compose.service": "no spaces\n"}))
    assert "'compose' gives the service name 'no spaces\\n'" in told
    assert told.isprintable()
    assert named(container(**COMPOSE), services="other").startswith("the option 'services' does not allow")


def test_labels_do_not_count_where_labels_are_not_followed_unless_the_order_is_configured() -> None:
    assert named(container(**COMPOSE), conventions=False) == "app"
    assert named(container(**COMPOSE), conventions=False, service_from=["compose"]) == "shop"


@pytest.mark.parametrize("wrong", ["composer", "", "{", "{}", "}{a}", "{a}{", "{a b}", "a b{c}", "{a}/x", 1, [], [1]])
def test_what_names_nothing_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError, match="service_from"):
        DockerConfig.model_validate({"service_from": wrong})


@given(st.dictionaries(st.sampled_from(["a", *COMPOSE, *SWARM, *NOMAD, "PODMAN_SYSTEMD_UNIT"]), st.text(max_size=20)))
def test_only_valid_names_are_used_whatever_labels_say(labels: dict[str, str]) -> None:
    for order in (["compose", "swarm", "nomad", "podman"], "{a}-{a}", "compose-project"):
        told = named(container(**labels), service_from=order)
        assert is_service_name(told) or told.isprintable()
