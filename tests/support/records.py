"""Decoded records and reasons of rejections, for tests of the codec."""

import json

from discovery.codec import Record, decode
from discovery.model import Rejected


def read(value: bytes | str | dict[str, object], key: str = "web/b1") -> Record:
    record = decode(key, as_bytes(value))
    assert isinstance(record, Record), record
    return record


def refusal(value: bytes | str | dict[str, object], key: str = "web/b1") -> str:
    rejected = decode(key, as_bytes(value))
    assert isinstance(rejected, Rejected), rejected
    assert rejected.field is None
    return rejected.reason


def as_bytes(value: bytes | str | dict[str, object]) -> bytes:
    if isinstance(value, dict):
        value = json.dumps(value)
    return value.encode() if isinstance(value, str) else value


def record(**fields: object) -> dict[str, object]:
    return {"host": "10.0.0.1", "port": 80, **fields}
