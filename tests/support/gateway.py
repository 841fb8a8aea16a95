"""Writes records of etcd by its HTTP gateway: at once, without a process for each, and without an event loop."""

import base64
import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import within

_AT_ONCE = 100
"""Records in one transaction: etcd allows 128."""


def put(etcd: EmbeddedEtcd, records: Mapping[str, str]) -> None:
    """Write records, keys below `/services/` and values, in transactions of many."""
    rows = list(records.items())
    for start in range(0, len(rows), _AT_ONCE):
        writes = [
            {"requestPut": {"key": _encoded(f"/services/{key}"), "value": _encoded(value)}}
            for key, value in rows[start : start + _AT_ONCE]
        ]
        _ask(etcd, "kv/txn", {"success": writes})


def delete(etcd: EmbeddedEtcd, key: str) -> None:
    """Remove the record of a key below `/services/`."""
    _ask(etcd, "kv/deleterange", {"key": _encoded(f"/services/{key}")})


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _ask(etcd: EmbeddedEtcd, path: str, document: Mapping[str, Any]) -> None:
    request = urllib.request.Request(f"http://{etcd.endpoint}/v3/{path}", json.dumps(document).encode())
    with urllib.request.urlopen(request, timeout=within(30)) as answer:
        answer.read()
