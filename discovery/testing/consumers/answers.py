"""Clauses: health, metrics, details and previews."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from discovery.errors import describe
from discovery.hosting.figures import valid_samples
from discovery.plugin import Health, Sample
from discovery.testing.clauses import expect
from discovery.testing.consumers.gentle import Asked, Gentle
from discovery.testing.support import within

HEALTH_SECONDS = 2.0
"""Seconds for `health`: the core asks that often, and applies nothing meanwhile."""
SCRAPE_SECONDS = 0.2
"""Seconds for the fastest of three scrapes: far more than it takes to copy numbers."""


class HasAsked(Protocol):
    """The answers of a plugin at several moments."""

    asked: list[Asked]


@dataclass
class Answers:
    """The answers of a provider."""

    asked: list[Asked]


def health_is_told_in_one_line(seen: Gentle) -> None:
    """The core asks every few seconds, from the end of `setup` on, and shows the detail in tables and `/healthz`."""
    for asked in seen.asked:
        is_health_told(asked.health, asked.moment)


def health_is_told_quickly(seen: HasAsked) -> None:
    """The core asks every two seconds, and applies nothing meanwhile: a slow answer delays every change."""
    for asked in seen.asked:
        limit, seconds = within(HEALTH_SECONDS), asked.health_seconds
        expect(seconds < limit, f"a health within {limit:g} s", f"{seconds:.1f} s {asked.moment}")


def health_is_good_after_an_apply_that_succeeded(seen: Gentle) -> None:
    """Bad health turns `/healthz` into 503, for which a supervisor may restart the daemon."""
    health = seen.asked[1].health
    expect(isinstance(health, Health) and health.ok, "ok after an apply that succeeded", health)


def metrics_can_be_read_at_any_time(seen: HasAsked) -> None:
    """A scrape comes from another thread, at any time between `setup` and `teardown`."""
    for asked in seen.asked:
        expect(not isinstance(asked.samples, BaseException), "samples", _with_moment(asked.samples, asked))


def metrics_do_not_block(seen: HasAsked) -> None:
    """A scrape asks every plugin in turn: `apply`, or a task, keeps what takes a question."""
    for asked in seen.asked:
        limit, seconds = within(SCRAPE_SECONDS), asked.samples_seconds
        expect(seconds < limit, f"samples within {limit:g} s", f"{seconds:.1f} s {asked.moment}")


def metrics_have_names_labels_and_values_that_prometheus_reads(seen: HasAsked) -> None:
    """One sample that Prometheus cannot read, or two of the same name and labels, and the core leaves samples out."""
    for asked in seen.asked:
        if isinstance(asked.samples, list):
            _, problems = valid_samples(asked.samples)
            expect(not problems, "valid samples", f"{problems} {asked.moment}")


def counters_never_decrease(seen: HasAsked) -> None:
    """Prometheus takes a counter that decreases for a restart, and computes a rate that never was."""
    values: dict[object, float] = {}
    for asked in seen.asked:
        for sample in asked.samples if isinstance(asked.samples, list) else []:
            if isinstance(sample, Sample) and sample.kind == "counter":
                key = sample.name, tuple(sorted(sample.labels.items()))
                before = values.get(key, sample.value)
                told = f"{sample.value:g} {asked.moment}"
                expect(sample.value >= before, f"{sample.name} of at least {before:g}", told)
                values[key] = sample.value


def details_are_json(seen: HasAsked) -> None:
    """`/api/consumers/NAME` shows the answer of `inspect` as JSON."""
    for asked in seen.asked:
        details: Any = asked.details
        expect(isinstance(details, Mapping), "a mapping from inspect", _with_moment(details, asked))
        try:
            text = json.dumps(dict(details), allow_nan=False)
        except (TypeError, ValueError) as error:
            text = ""
            expect(False, "values that JSON has", f"{describe(error)} {asked.moment}: {details!r}")
        names = [name for name in details if not isinstance(name, str)]
        expect(text and not names, "names that are text", f"{names} {asked.moment}")


def a_preview_is_text(seen: Gentle) -> None:
    """`run --dry-run` prints the answer of `preview`."""
    for what, text in (*seen.previews.texts.items(), *seen.previews.of_states.items()):
        expect(isinstance(text, str), f"a diff as text for {what}", _described(text))


def a_preview_changes_nothing(seen: Gentle) -> None:
    """A dry run promises to change nothing, also beside a daemon that runs in the same directories."""
    before, after = seen.previews.changed
    expect(before == after, "the effect that was there before the preview", after)
    expect(not seen.previews.writes, "no write, removal or new directory by a preview", seen.previews.writes)


def a_preview_tells_every_change(seen: Gentle) -> None:
    """An empty preview says that `apply` changes nothing; who believes that applies what nobody has looked at."""
    texts, first, second = seen.previews.texts, seen.repeated["snapshot 0"][0], seen.repeated["snapshot 1"][0]
    if "the first state, at the second" in texts and first != second:
        expect(texts["the first state, at the second"], "a diff for another state", "an empty preview")
    if "the first state, in no directory" in texts and first != seen.before:
        expect(texts["the first state, in no directory"], "a diff for a first apply", "an empty preview")


def a_preview_tells_every_kind_of_change(seen: Gentle) -> None:
    """A removal, another address or another state that a preview leaves out is applied, and nobody has looked at it."""
    texts, worlds = seen.previews.of_states, seen.worlds
    for name, text in texts.items():
        if worlds[name] != worlds["pair"]:
            silent = not text or text == texts["pair"]
            expect(not silent, f"a diff from the state 'pair' to the state {name!r}", text or "an empty preview")


def a_preview_of_no_change_is_empty(seen: Gentle) -> None:
    """A diff where `apply` changes nothing sends a person to look for a change that there is not."""
    texts = seen.previews.texts
    nothing = texts.get("nothing, at the second state", "")
    other = texts.get("nothing, at the first state", nothing)
    # Words that say that there is no change, always the same, were allowed before the form of a diff was prescribed.
    in_words = nothing == other != texts.get("the first state, at the second") and not _is_diff(nothing)
    expect(not (nothing or other) or in_words, "an empty preview of the state that was applied", nothing or other)


def a_preview_compares_with_what_is_there(seen: Gentle) -> None:
    """A dry run has no `previous`: the changes are those from the files that are there, and not those from nothing."""
    contract = seen.session.contract
    text = seen.previews.texts.get("the second state as a first apply, at the second", "")
    if contract.keeps_its_effect_in_files:
        expect(not _is_diff(text), "no diff against the files that the same state has written", text)


ANSWERS: tuple[Callable[[Gentle], None], ...] = (
    health_is_told_in_one_line,
    health_is_told_quickly,
    health_is_good_after_an_apply_that_succeeded,
)
FIGURES: tuple[Callable[[HasAsked], None], ...] = (
    metrics_can_be_read_at_any_time,
    metrics_do_not_block,
    metrics_have_names_labels_and_values_that_prometheus_reads,
    counters_never_decrease,
    details_are_json,
)
PREVIEWS: tuple[Callable[[Gentle], None], ...] = (
    a_preview_is_text,
    a_preview_changes_nothing,
    a_preview_tells_every_change,
    a_preview_tells_every_kind_of_change,
    a_preview_of_no_change_is_empty,
    a_preview_compares_with_what_is_there,
)


def is_health_told(health: object, moment: str) -> None:
    """Check that `health` is a Health with a single line of detail. `moment` is when the question was asked."""
    expect(isinstance(health, Health), "a Health", f"{_described(health)} {moment}")
    assert isinstance(health, Health)
    expect(isinstance(health.ok, bool), "True or False", f"ok is {health.ok!r} {moment}")
    expect(isinstance(health.detail, str), "a detail that is text", f"{health.detail!r} {moment}")
    expect(not health.detail or health.detail.isprintable(), "a detail of one line", f"{health.detail!r} {moment}")


def _is_diff(text: object) -> bool:
    lines = text.splitlines() if isinstance(text, str) else []
    return any(line.startswith(("@@", "+", "-")) for line in lines)


def _described(value: object) -> str:
    return describe(value) if isinstance(value, BaseException) else repr(value)


def _with_moment(value: object, asked: Asked) -> str:
    return f"{_described(value)} {asked.moment}"
