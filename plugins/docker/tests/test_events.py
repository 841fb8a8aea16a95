"""What events say of containers, as recorded from Docker 20.10 and Podman 4.3.1."""

from typing import Any

import pytest

from discovery_docker.events import Notice, filters, read

ID = "44b966f3d68c6eb98398507e4e5e7907469a7e05a6ae79bcf3d9b4b90d6dfbef"
NETWORK = "9d1c8f2f5a3e"
AT = 1795989705097167200


def event(action: str, type_: str = "container", id_: str = ID, **attributes: str) -> dict[str, Any]:
    actor = {"ID": id_, "Attributes": {"name": "web-1", **attributes}}
    return {"Type": type_, "Action": action, "Actor": actor, "scope": "local", "time": AT // 10**9, "timeNano": AT}


@pytest.mark.parametrize("action", ["die", "died"])
def test_a_container_has_ended(action: str) -> None:
    assert read(event(action, containerExitCode="137")) == Notice(ID, "ended", AT)


@pytest.mark.parametrize(
    "action",
    [
        "start",
        "stop",
        "restart",
        "pause",
        "unpause",
        "rename",
        "destroy",
        "remove",
        "cleanup",
        "health_status: healthy",
    ],
)
def test_a_container_has_changed(action: str) -> None:
    assert read(event(action)) == Notice(ID, "changed", AT)


def test_a_signal_has_a_number_in_docker_and_none_in_podman() -> None:
    """Without a number it may be a signal to reload: the container is inspected."""
    assert read(event("kill", signal="15")) == Notice(ID, "signalled", AT, 15)
    assert read(event("kill", signal="SIGTERM")) == Notice(ID, "signalled", AT, 15)
    assert read(event("kill", containerExitCode="0")) == Notice(ID, "changed", AT)
    assert read(event("kill", signal="nonsense")) == Notice(ID, "changed", AT)


def test_the_container_of_a_network_is_the_actor_in_podman() -> None:
    for action in ("connect", "disconnect"):
        assert read(event(action, "network", NETWORK, container=ID)) == Notice(ID, "changed", AT)
        assert read(event(action, "network", containerExitCode="0")) == Notice(ID, "changed", AT)
    assert read(event("destroy", "network", NETWORK)) is None
    assert read(event("remove", "network", NETWORK)) is None


def test_a_program_that_ends_in_a_container_may_be_podmans_health_check() -> None:
    assert read(event("exec_died")) == Notice(ID, "probed", AT)
    assert "exec_died" in filters(is_podman=True)["event"]
    assert "exec_died" not in filters(is_podman=False)["event"]


def test_a_service_of_swarm_has_changed() -> None:
    assert read(event("update", "service", "hg3dy4fmr29v13eef1649ra8x")) == Notice(
        "hg3dy4fmr29v13eef1649ra8x", "service", AT
    )
    assert read(event("update")) == Notice(ID, "changed", AT)  # `docker update` of a container


@pytest.mark.parametrize("malformed", [{}, {"Actor": None}, {"Actor": {"ID": None, "Attributes": None}}])
def test_an_event_without_a_container_says_nothing(malformed: dict[str, Any]) -> None:
    assert read({"Type": "container", "Action": "start", "timeNano": AT, **malformed}) is None


def test_the_time_may_be_in_seconds() -> None:
    assert read(event("start") | {"timeNano": None}) == Notice(ID, "changed", AT // 10**9 * 10**9)
