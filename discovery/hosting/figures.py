"""The samples of a plugin's own metrics that Prometheus can read. An invalid sample is left out alone."""

import re
from collections.abc import Iterable

from discovery.errors import describe
from discovery.plugin import Sample

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)  # https://prometheus.io/docs/concepts/data_model/
_KINDS = ("counter", "gauge")
_LABEL_RULE = "only ASCII letters, digits and underscores, no digit first, not beginning with __, and not `{}`"


def valid_samples(samples: Iterable[object], kind: str = "consumer") -> tuple[tuple[Sample, ...], dict[str, str]]:
    """Return the valid samples, and the reason for each name with an invalid sample.

    `kind`, "consumer" or "provider", is the label that the core adds.

    Of samples with the same name and labels, and of samples with the same name and different kinds, the first is valid.
    """
    admitted: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}
    kinds: dict[str, str] = {}
    problems: dict[str, str] = {}
    for sample in samples:
        name = str(getattr(sample, "name", None) or type(sample).__name__)
        try:
            valid = _validated(sample, kind)
            key = valid.name, frozenset(valid.labels.items())
            if kinds.setdefault(valid.name, valid.kind) != valid.kind:
                raise ValueError(f"it is a {valid.kind}, and an earlier sample of this name is a {kinds[valid.name]}")
            if key in admitted:
                raise ValueError(f"there are two samples with the labels {dict(valid.labels)}")
            admitted[key] = valid
        except Exception as error:  # noqa: BLE001 - a plugin may put anything there
            problems.setdefault(name, describe(error))
    return tuple(admitted.values()), problems


def _validated(sample: object, kind: str) -> Sample:
    """Return the sample as exported. Raises ValueError, TypeError or OverflowError if Prometheus could not read it."""
    if not isinstance(sample, Sample):
        raise TypeError(f"{sample!r} is not a Sample")
    if sample.kind not in _KINDS:
        raise ValueError(f"the kind {sample.kind!r} is not one of {', '.join(_KINDS)}")
    name = sample.name.removesuffix("_total") if sample.kind == "counter" else sample.name
    if not _NAME.fullmatch(name):
        raise ValueError("the name of a sample has only ASCII letters, digits and underscores, and no digit first")
    labels = dict(sample.labels)
    for label, value in labels.items():
        if not _NAME.fullmatch(label) or label.startswith("__") or label == kind:
            raise ValueError(f"the label {label!r} is not valid: {_LABEL_RULE.format(kind)}")
        if not isinstance(value, str):
            raise TypeError(f"the value {value!r} of the label {label!r} is not text")
        value.encode()  # surrogates, as in the name of a file, cannot be encoded
    sample.help.encode()
    return Sample(name, float(sample.value), labels, sample.kind, sample.help)
