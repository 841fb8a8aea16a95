"""Selection of backends by the service of the registry and by labels."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from discovery import Backend, Snapshot
from discovery.testing import backend
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Rendered, Renderer, Runtime, render
from discovery_haproxy.rendering.selection import selected

PRIMARY = {"service": "pg", "labels": {"role": "primary"}, "mode": "tcp", "bind": "127.0.0.1:5432"}
REPLICAS = {"service": "pg", "labels": {"role": ["replica", "sync"]}, "mode": "tcp", "bind": "127.0.0.1:5433"}
VALUES = ("a", "b", "")


def rendered(services: dict[str, Any], *backends: Backend) -> Rendered:
    """Render the services for these backends."""
    config = HAProxyConfig.model_validate({"services": services})
    return render(config, Snapshot.of(1, backends), Runtime(), {})


def servers(result: Rendered) -> dict[str, list[str]]:
    """Return the ids of the servers by section."""
    return {section.name: [server.record.id for server in section.backends] for section in result.sections.services}


def pg(id_: str, role: str | None) -> Backend:
    """Return a backend of the service `pg`."""
    return backend("pg", id=id_, host="127.0.0.1", port=5432, labels={"role": role} if role is not None else {})


def test_one_service_of_the_registry_feeds_several_sections() -> None:
    result = rendered({"rw": PRIMARY, "ro": REPLICAS}, pg("a", "primary"), pg("b", "replica"), pg("c", "sync"))
    assert servers(result) == {"ro": ["b", "c"], "rw": ["a"]}
    assert result.mappings == (
        "ro  tcp 127.0.0.1:5433 -> 2 backends of pg with role=replica|sync",
        "rw  tcp 127.0.0.1:5432 -> 1 backend of pg with role=primary",
    )
    assert result.problems == ()


def test_a_missing_label_is_the_empty_value() -> None:
    service = {"bind": "127.0.0.1:1", "labels": {"role": ""}}
    backends = pg("missing", None), pg("empty", ""), pg("other", "x")
    assert servers(rendered({"pg": service}, *backends)) == {"pg": ["empty", "missing"]}


def test_numbers_and_booleans_are_the_texts_that_records_have() -> None:
    service = {"bind": "127.0.0.1:1", "labels": {"shard": 1, "spot": [True, "maybe"]}}
    backends = [
        backend("pg", id="yes", labels={"shard": "1", "spot": "true"}),
        backend("pg", id="no", labels={"shard": "1", "spot": "false"}),
    ]
    assert servers(rendered({"pg": service}, *backends)) == {"pg": ["yes"]}


@pytest.mark.parametrize(
    ("service", "problem"),
    [
        (PRIMARY | {"labels": {"role": "primry"}}, "no backend of 'pg' has role=primry"),
        (PRIMARY | {"labels": {"role": ""}}, "no backend of 'pg' has role=''"),
        (PRIMARY | {"service": "pgg"}, "no service 'pgg' is registered"),
    ],
)
def test_a_selection_that_selects_nothing_is_a_problem_and_no_error(service: dict[str, Any], problem: str) -> None:
    result = rendered({"rw": service}, pg("a", "primary"))
    assert result.problems == (f"service 'rw' has no backends: {problem}",)
    assert " -> 0 backends of pg" in result.mappings[0]


def test_a_service_without_a_selection_may_have_no_backends() -> None:
    assert rendered({"web": {"bind": "127.0.0.1:1"}}).problems == ()


def test_a_selection_is_no_problem_if_its_backends_are_left_out_for_another_reason() -> None:
    config = HAProxyConfig.model_validate({"services": {"rw": PRIMARY}})
    left_out = Renderer().render(config, Snapshot.of(1, [pg("a", "primary")]), Runtime(), {}, replaced={"rw": ()})
    assert left_out.problems == ()
    (problem,) = rendered({"rw": PRIMARY}, backend("pg", id="a", port=70000, labels={"role": "primary"})).problems
    assert problem.startswith("backend 'a' of 'pg' is left out")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"labels": {"role": []}}, "the list of values is empty, which no backend has"),
        ({"labels": {"ro le": "x"}}, "'ro le' is not a label's name of 1-63 letters, digits, _ . and -"),
        ({"labels": {"role": {"not": "x"}}}, "a table is not the value of a label"),
        ({"labels": "role=primary"}, "valid dictionary"),
        ({"service": "a b"}, "the service name 'a b' is not valid"),
    ],
)
def test_an_invalid_selection_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HAProxyConfig.model_validate({"services": {"web": options}})
    assert complaint in str(caught.value)


LABELS = st.dictionaries(st.sampled_from(("role", "zone")), st.sampled_from(VALUES))


@given(labels=st.lists(LABELS, max_size=12))
def test_sections_for_each_value_share_the_backends_out(labels: list[dict[str, str]]) -> None:
    snapshot = Snapshot.of(1, [backend(id=f"{number:02}", labels=each) for number, each in enumerate(labels)])

    def chosen(**wanted: object) -> list[str]:
        config = HAProxyConfig.model_validate({"services": {"any": {"service": "web", "labels": wanted}}})
        return [each.id for each in selected("any", config.services["any"], snapshot)]

    by_value = {value: chosen(role=value) for value in VALUES}
    everything = sorted(id_ for ids in by_value.values() for id_ in ids)
    assert everything == chosen() == [each.id for each in snapshot.backends()]  # none twice, none lost
    assert chosen(role=["a", ""]) == sorted(by_value["a"] + by_value[""])
    assert chosen(role="a", zone=["b", ""]) == [id_ for id_ in by_value["a"] if id_ in chosen(zone=["b", ""])]
