"""The `filter` of a consumer: what the core tells it of, and what is shared between versions."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from consumers import instance, recorder, running
from hypothesis import given
from hypothesis import strategies as st

from discovery import Backend, Consumer, PluginConfig, Snapshot, Update
from discovery.consuming.runner import ConsumerInstance
from discovery.consuming.selection import Selection, missing_services, narrowed, unmatched
from discovery.daemon.config import parse_settings
from discovery.daemon.instances import Instances, build
from discovery.daemon.settings import Overrides
from discovery.daemon.validation import NOTHING, validate_instances
from discovery.errors import ConfigError
from discovery.hosting import loading
from discovery.hosting.directories import Directories
from discovery.hosting.tables import Filter
from discovery.testing import backend, eventually_sync, snapshot

FILTERS = (
    Filter(),
    Filter(services="web-*"),
    Filter(services=("web-?", "db")),
    Filter(labels={"role": "primary"}),
    Filter(services="web-[ab]", labels={"role": ("primary", "")}),
    Filter(labels={"role": "primary", "zone": "a"}),
    Filter(services="none"),
)
BACKENDS = st.lists(
    st.builds(
        backend,
        service=st.sampled_from(["web-a", "web-b", "db", "other"]),
        id=st.sampled_from([str(number) for number in range(6)]),
        port=st.integers(80, 82),
        labels=st.sampled_from([{}, {"role": "primary"}, {"role": "replica"}, {"role": "primary", "zone": "a"}]),
    ),
    max_size=12,
)


def wanted(each: Backend, of: Filter) -> bool:
    import fnmatch

    named = not of.services or any(fnmatch.fnmatchcase(each.service, pattern) for pattern in of.services)
    return named and all(each.labels.get(label, "") in values for label, values in of.labels.items())


@given(of=st.sampled_from(FILTERS), histories=st.lists(BACKENDS, min_size=1, max_size=5))
def test_a_selection_is_what_a_filter_of_every_snapshot_by_itself_gives(
    of: Filter, histories: list[list[Backend]]
) -> None:
    selection = Selection(of)
    for revision, backends in enumerate(histories):
        whole = Snapshot.of(revision, backends)
        selected = selection.of(whole)
        assert selected == Snapshot.of(revision, [each for each in whole.backends() if wanted(each, of)])
        assert list(selected.services) == sorted(selected.services)
        assert dict(selected.services) == {
            name: service for name, service in Selection(of).of(whole).services.items() if service
        }


def test_versions_share_what_did_not_change() -> None:
    roles = [{"role": "primary" if number % 2 else "replica"} for number in range(1000)]
    big = [backend("big", f"{number:04}", labels=labels) for number, labels in enumerate(roles)]
    small = backend("small", "1", labels={"role": "primary"})
    for of in (Filter(services=("big", "small")), Filter(labels={"role": "primary"})):
        selection = Selection(of)
        first = selection.of(Snapshot.of(1, [*big, small]))
        again = Snapshot.of(2, [*big, small])
        changed = replace(again, services={**again.services, "big": again.services["big"].with_changes({"0501": None})})
        second = selection.of(changed)
        assert len(second.services["big"]) == len(first.services["big"]) - 1
        before, after = first.services["big"].runs, second.services["big"].runs
        if of.labels:
            assert len({*map(id, before)} & {*map(id, after)}) >= len(before) - 1
        assert selection.of(replace(changed, revision=3)).services is second.services
    whole = snapshot(small)
    assert Selection(None).of(whole) is whole


def test_rejections_and_addresses_are_those_of_the_selected() -> None:
    named, other = backend("web", "a", host="a.example"), backend("db", "b", host="b.example")
    known = {("a.example", named.port): ("10.0.0.1",), ("b.example", other.port): ("10.0.0.2",)}
    update = Update(snapshot(named, other), None, NOTHING.changes, known)
    told = narrowed(update, Filter(services="w*"))
    assert list(told.snapshot.services) == ["web"]
    assert told.addresses == {("a.example", named.port): ("10.0.0.1",)}
    assert told.changes.added == (named,)
    assert narrowed(update, None) is update


@given(of=st.sampled_from(FILTERS), backends=BACKENDS)
def test_a_filter_that_selects_nothing_is_told_and_one_that_selects_by_every_key_is_not(
    of: Filter, backends: list[Backend]
) -> None:
    state = Snapshot.of(1, backends)
    selected, told = Selection(of).of(state), unmatched(of, state)
    if state.services and not selected.services:
        assert told
    if len(of.services) < 2 and selected.services:
        assert not told
    assert set(missing_services(of, state)) <= {"db", "none"} - state.services.keys()
    assert all(any(f"no service {name!r}" in line for line in told) for name in missing_services(of, state))


KNOWN = snapshot(
    backend("web", "a", labels={"role": "primary", "zone": "a"}), backend("web", "b", labels={"role": "replica"})
)


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (Filter(services=("web", "wbe")), ["the registry has no service 'wbe'; did you mean 'web'?"]),
        (Filter(services="db-*"), ["the registry has no service 'db-*'"]),
        (Filter(labels={"rol": "primary"}), ["no backend has the label 'rol'; did you mean 'role'?"]),
        (Filter(labels={"rol": ("primary", "")}), []),
        (Filter(labels={"role": ("first", "1st")}), ["no backend has the label 'role' with 'first' or '1st'"]),
        (Filter(labels={"role": "replica", "zone": "a"}), ["no backend has all of the labels"]),
        (Filter(services="db", labels={"rol": "x"}), ["the registry has no service 'db'", "no backend has the label"]),
        (None, []),
    ],
)
def test_what_selects_nothing_is_told_with_the_likely_reason(of: Filter | None, told: list[str]) -> None:
    lines = unmatched(of, KNOWN)
    assert [line[: len(start)] for line, start in zip(lines, told, strict=True)] == told
    assert unmatched(of, snapshot()) == ()


@pytest.mark.parametrize("pattern", ["web", "web-*", "*", "we?", "w[a-f]b", "[!.]*", "w[]]b*", "x" * 128, "_a.b-c"])
def test_a_pattern_that_names_of_services_can_match(pattern: str) -> None:
    assert Filter(services=pattern).services == (pattern,)


@pytest.mark.parametrize("pattern", ["", " web", "we b-*", "web[a", "web/*", ".web", "-*", "wéb*", 5, "x" * 129, "a,b"])
def test_a_pattern_that_no_name_of_a_service_can_match_is_refused(
    pattern: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=r"consumers\.it\.filter\.services.*: .* can match no service: write a name of"
    ):
        built(monkeypatch, Plain, {"filter": {"services": [pattern]}})


def test_an_empty_list_of_services_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"consumers\.it\.filter\.services: the list is empty: name services, or leave"
    ):
        built(monkeypatch, Plain, {"filter": {"services": []}})


async def test_the_check_of_a_configuration_tells_what_a_filter_does_not_select(tmp_path: Path) -> None:
    made = instance(recorder())._replace(filter=Filter(services=("web", "wbe")))
    updates = [NOTHING, replace(NOTHING, snapshot=KNOWN)]
    directories = Directories(tmp_path / "run", tmp_path / "state")
    found = await validate_instances(Instances({"it": made}, {}, {}), updates, directories, structlog.get_logger())
    assert found.faults == ()
    assert "consumers.it: filter: the registry has no service 'wbe'; did you mean 'web'?" in found.unchecked


def test_a_service_that_is_missing_degrades_the_consumer(tmp_path: Path) -> None:
    made = instance(recorder())._replace(filter=Filter(services=("web", "db", "d*")))
    web, db = backend("web", "a"), backend("db", "b")
    with running(made, tmp_path) as runner:
        runner.offer(snapshot(web, revision=1))
        eventually_sync(lambda: runner.status.degraded == "filter: the registry has no service 'db'")
        assert runner.status.problem is None
        runner.offer(snapshot(web, db, revision=2))
        eventually_sync(lambda: runner.status.state == "ok")


def test_a_consumer_is_told_of_its_part_alone(tmp_path: Path) -> None:
    consumer = recorder()
    made = instance(consumer)._replace(filter=Filter(services="web"))
    web, db = backend("web", "a"), backend("db", "b")
    with running(made, tmp_path) as runner:
        runner.offer(snapshot(web, db, revision=1))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        runner.offer(snapshot(web, revision=2))  # without a change for this consumer
        eventually_sync(lambda: runner.status.applied_revision == 2)
        runner.reconfigure(made._replace(filter=Filter(services="*")))
        runner.offer(snapshot(web, db, revision=3))
        eventually_sync(lambda: runner.status.applied_revision == 3)
        eventually_sync(lambda: [*consumer.updates[-1].snapshot.services] == ["db", "web"])
    assert [*consumer.updates[0].snapshot.services] == ["web"]
    assert consumer.updates[0].changes.added == (web,)
    assert consumer.updates[-1].snapshot.revision == 3
    assert consumer.events == ["setup", "teardown"]  # a filter is no reason to restart the instance


class Plain(Consumer[Any]):
    async def apply(self, update: Update) -> None:
        pass


class OptionsWithFilter(PluginConfig):
    filter: str = ""


class WithFilter(Plain):
    Config = OptionsWithFilter


def built(monkeypatch: pytest.MonkeyPatch, consumer: type[Plain], table: Mapping[str, Any]) -> ConsumerInstance:
    monkeypatch.setattr(loading, "consumer_class", lambda name: consumer)
    settings = parse_settings({"consumers": {"it": {"plugin": "it", **table}}}, Overrides())
    return build(settings).consumers["it"]


def test_the_key_is_the_core_s_unless_the_plugin_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"filter": {"services": ["web-*"], "labels": {"role": "primary"}}}
    assert built(monkeypatch, Plain, table).filter == Filter(services=("web-*",), labels={"role": ("primary",)})
    assert built(monkeypatch, Plain, {}).filter is None
    own = built(monkeypatch, WithFilter, {"filter": "mine"})
    assert (own.filter, own.config) == (None, OptionsWithFilter(filter="mine"))
    with pytest.raises(ConfigError, match=r"consumers\.it\.filter\.service: unknown key; did you mean 'services'"):
        built(monkeypatch, Plain, {"filter": {"service": "web"}})
    with pytest.raises(ConfigError, match=r"consumers\.it\.filte: unknown key; did you mean 'filter'"):
        built(monkeypatch, Plain, {"filte": {}})
