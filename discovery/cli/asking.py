"""Asks the admin endpoint of a daemon for a document."""

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from discovery.cli.options import settings_of
from discovery.daemon.configfile import file_in_use
from discovery.errors import DiscoveryError, describe
from discovery.model import join_host_port

_THIS_MACHINE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a daemon listens, not we
ANSWER_SECONDS = 10.0
"""Seconds for an answer: the daemon makes large documents one at a time."""
_MOST_BYTES = 256 * 1024 * 1024
"""Bytes of an answer: a snapshot of 1,000,000 backends has fewer."""


class NoDaemonError(DiscoveryError):
    """No daemon answers at the admin endpoint; the message says where and why."""


class RefusedError(DiscoveryError):
    """The daemon answers with an error; `status` is the HTTP status, the message what it says."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the status."""
        super().__init__(message)
        self.status = status


def admin_address(admin: str | None, config: Path | None) -> tuple[str, int]:
    """Return the address at which to ask: `admin`, or that of the configuration file, or the default.

    Raises ConfigError if the address is not valid, and NoDaemonError if the endpoint is off.
    """
    settings = settings_of(config, admin=admin)
    if settings.admin is None:
        where = f"in {file_in_use(config)}" if admin is None else "by --admin or DISCOVERY_ADMIN"
        raise NoDaemonError(f"the admin endpoint is off {where}; name one with --admin HOST:PORT")
    host, port = settings.admin
    return _THIS_MACHINE.get(host, host), port


def ask(
    address: tuple[str, int], path: str, query: Mapping[str, Any] | None = None, timeout: float = ANSWER_SECONDS
) -> dict[str, Any]:
    """Return the JSON object that the daemon at `address` answers; a value None of `query` is left out.

    Raises NoDaemonError if no daemon answers, RefusedError for an error.
    """
    given = {name: value for name, value in (query or {}).items() if value is not None}
    target = f"{path}?{urlencode(given, doseq=True)}" if given else path
    where = join_host_port(*address)
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("GET", target, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        status, body = answer.status, answer.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise NoDaemonError(
            f"no daemon answers at {where} ({describe(error)}); start one, or name its admin endpoint with --admin"
        ) from None
    finally:
        connection.close()
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if status >= 400:
        told = document.get("error") if isinstance(document, dict) else None
        way_out = "the daemon is of an earlier version" if status == 404 and told is None else f"status {status}"
        raise RefusedError(status, f"{where}: {told or way_out}")
    if not isinstance(document, dict):
        raise NoDaemonError(f"what answers at {where} is no daemon; name its admin endpoint with --admin")
    return document
