"""Consumers' own figures: which of them can be shown. What is wrong with one costs that one alone."""

import re
from collections.abc import Iterable

from discovery.errors import describe
from discovery.plugin import Sample

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)  # https://prometheus.io/docs/concepts/data_model/
_KINDS = ("counter", "gauge")


def valid_samples(samples: Iterable[object]) -> tuple[tuple[Sample, ...], dict[str, str]]:
    """The samples that can be shown, and what is wrong with the others, by name.

    Of two with one name and equal labels the first is shown, and of two kinds under one name the first kind.
    """
    admitted: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}
    kinds: dict[str, str] = {}
    problems: dict[str, str] = {}
    for sample in samples:
        name = str(getattr(sample, "name", None) or type(sample).__name__)
        try:
            valid = _validated(sample)
            key = valid.name, frozenset(valid.labels.items())
            if kinds.setdefault(valid.name, valid.kind) != valid.kind:
                raise ValueError(f"it is a {kinds[valid.name]} as well as a {valid.kind}")
            if key in admitted:
                raise ValueError(f"it is there twice with the labels {dict(valid.labels)}")
            admitted[key] = valid
        except Exception as error:  # noqa: BLE001 - a plugin may put anything there
            problems.setdefault(name, describe(error))
    return tuple(admitted.values()), problems


def _validated(sample: object) -> Sample:
    """Raises ValueError, TypeError or OverflowError for what Prometheus would not read."""
    if not isinstance(sample, Sample):
        raise TypeError(f"{sample!r} is no Sample")
    if sample.kind not in _KINDS:
        raise ValueError(f"its kind {sample.kind!r} is none of {', '.join(_KINDS)}")
    name = sample.name.removesuffix("_total") if sample.kind == "counter" else sample.name
    if not _NAME.fullmatch(name):
        raise ValueError("its name may have ASCII letters, digits and underscores only")
    labels = dict(sample.labels)
    for label, value in labels.items():
        if not _NAME.fullmatch(label) or label.startswith("__") or label == "consumer":
            raise ValueError(f"its label {label!r} cannot be one")
        if not isinstance(value, str):
            raise TypeError(f"its label {label!r} is {value!r}, no text")
        value.encode()  # a name of a file, say, may hold what cannot be
    sample.help.encode()
    return Sample(name, float(sample.value), labels, sample.kind, sample.help)
