"""The log lines about backends that are down: one for each failure and recovery, at a bounded rate."""

from typing import Any

import structlog
from structlog.testing import capture_logs

from discovery.hosting.downlog import DownLog


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(logs: list[Any]) -> list[tuple[str, ...]]:
    return [
        (
            each["event"],
            *(str(each[name]) for name in ("key", "address", "reason", "down_for", "backends") if name in each),
        )
        for each in logs
    ]


def test_a_failure_is_told_once_with_its_reason_and_the_recovery_with_its_time() -> None:
    clock, addresses = Clock(), {"web/a": "10.0.0.1:80", "web/b": "10.0.0.2:80"}
    with capture_logs() as logs:
        log = DownLog(structlog.get_logger(), clock)
        log.tell({"web/a": "refused"}, addresses.get)
        clock.now += 3
        log.tell({"web/a": "timed out", "web/b": "refused"}, addresses.get)
        clock.now += 4.25
        log.tell({"web/b": "refused"}, addresses.get)
        del addresses["web/b"]
        log.tell({}, addresses.get)
    assert told(logs) == [
        ("a backend is down", "web/a", "10.0.0.1:80", "refused"),
        ("a backend is down", "web/b", "10.0.0.2:80", "refused"),
        ("a backend is no longer down", "web/a", "10.0.0.1:80", "7.2 s"),
        ("a backend that was down is gone", "web/b", "10.0.0.2:80", "4.2 s"),
    ]


def test_a_dead_network_and_a_backend_that_comes_and_goes_do_not_fill_the_log() -> None:
    def address_of(_: str) -> str:
        return "10.0.0.9:80"

    dead = {f"web/{number}": "no route" for number in range(1000)}
    with capture_logs() as logs:
        log = DownLog(structlog.get_logger())
        log.tell(dead, address_of)
        log.tell({}, address_of)
        for _ in range(500):
            log.tell({"db/a": "refused"}, address_of)
            log.tell({}, address_of)
    events = [each["event"] for each in logs]
    begun, ended = events.count("a backend is down"), events.count("a backend is no longer down")
    assert begun == ended, "a recovery is told of each failure that was"
    assert 10 <= begun < 60
    (more,) = (each for each in logs if "backends" in each)
    assert (more["event"], more["backends"]) == ("more backends are down, or were", 990)
