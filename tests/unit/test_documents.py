"""The JSON form of a backend, in which plugins keep backends."""

import json

import pytest

from discovery import Backend, RecordError, State
from discovery.testing import backend
from discovery.toolkit import backend_document, backend_of


@pytest.mark.parametrize(
    "original",
    [backend(), Backend("web", "a", "::1", 80, 0, State.DRAINING, {"zone": "ä", "port": "1"})],
    ids=["plain", "full"],
)
def test_a_backend_survives_json(original: Backend) -> None:
    assert backend_of(json.loads(json.dumps(backend_document(original)))) == original


@pytest.mark.parametrize(
    "change",
    [
        {"state": "asleep"},
        {"port": 0},
        {"port": "x"},
        {"host": None},
        {"labels": ["zone"]},
        {"labels": {"zone": None}},
        {"more": 1},
    ],
    ids=str,
)
def test_what_is_no_backend_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        backend_of({**backend_document(backend()), **change})


@pytest.mark.parametrize("document", [None, [], "web", 1, {}], ids=str)
def test_what_is_no_object_of_a_backend_is_refused(document: object) -> None:
    with pytest.raises(RecordError, match="this is not the JSON object of a backend"):
        backend_of(document)
