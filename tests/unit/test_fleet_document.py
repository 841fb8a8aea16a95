"""What a daemon tells others of itself, and what they take from it."""

import json

from discovery.admin.status import DaemonStatus
from discovery.checks import Verdict
from discovery.fleet.answer import answer_of
from discovery.fleet.fleetdocument import member_document
from discovery.providing.checker import CandidateStatus
from discovery.providing.provider import RunningProviderStatus
from discovery.providing.runner import ProviderStatus
from discovery.testing import backend


def told(*, registered: frozenset[str], broken: dict[str, str]) -> dict[str, str]:
    candidates = {
        f"web/{id_}": CandidateStatus(backend("web", id_), Verdict.FAILING, f"{id_} is ill") for id_ in ("a", "b", "c")
    }
    runner = ProviderStatus("docker", "docker", candidates=candidates)
    provider = RunningProviderStatus(runner, "host-1", 10.0, registered, registered, {}, None, True)
    status = DaemonStatus("r", providers=(provider,), broken=broken)
    answer = answer_of(json.dumps(member_document(status, "id", "1")).encode(), "id")
    return dict(answer["problems"])


def test_what_a_provider_finds_and_does_not_register_is_told_with_a_reason() -> None:
    assert told(registered=frozenset(), broken={}) == {"docker": "3 of 3 found not registered: web/a: a is ill"}
    assert told(registered=frozenset({"web/a"}), broken={}) == {
        "docker": "2 of 3 found not registered: web/b: b is ill"
    }
    assert told(registered=frozenset({"web/a", "web/b", "web/c"}), broken={}) == {}
    assert told(registered=frozenset(), broken={"docker": "no engine"}) == {"docker": "no engine"}
