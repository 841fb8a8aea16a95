"""The summary of a daemon's health: its names differ, and it fits into one packet."""

import json

import pytest

from discovery.admin.health import summary
from discovery.admin.status import DaemonStatus
from discovery.consuming.runner import ConsumerStatus
from discovery.plugin import Health
from discovery.system import packets


def failing(*names: str, reason: str = "no way") -> DaemonStatus:
    return DaemonStatus("memory://", consumers=tuple(ConsumerStatus(name, "p", error=reason) for name in names))


@pytest.mark.parametrize("names", [("ä", "ö"), ("ä" * 99 + "1", "ä" * 99 + "2"), ("x" * 199 + "1", "x" * 199 + "2")])
def test_instances_of_any_name_are_told_apart(names: tuple[str, str]) -> None:
    told = summary(failing(*names))
    assert len(told["problems"]) == len(set(told["instances"])) == len(set(told["waiting_for"])) == 2
    assert list(told["problems"]) == told["instances"] == told["waiting_for"]


def test_a_name_and_a_reason_of_any_language_are_told_as_they_are() -> None:
    assert summary(failing("größe", reason="unmöglich: 不行"))["problems"] == {"größe": "unmöglich: 不行"}


@pytest.mark.parametrize("character", ["x", '"', "\0", "ä", "\udc80", "\U0001f600"])
def test_the_summary_fits_into_a_packet_whatever_is_wrong(character: str) -> None:
    names = [character * 200 + str(number) for number in range(100)]
    status = failing(*names[:50], reason=character * 5000)
    degraded = (ConsumerStatus(name, "p", health=Health(problems={"x": character * 5000})) for name in names[50:])
    status = status._replace(consumers=(*status.consumers, *degraded), broken=dict.fromkeys(names, character * 5000))
    told = summary(status)
    assert len(told["problems"]) == len(told["degraded"]) == len(told["broken"]) == 20
    assert len(json.dumps({"health": told})) < packets.MOST_BYTES
