"""`discovery wait`: waits until a service has its backends, and consumers have applied them. For scripts."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from discovery.cli.console import note, progress, result
from discovery.cli.options import (
    AdminCAOption,
    AdminCertOption,
    AdminFiles,
    AdminKeyOption,
    AdminOption,
    AdminTokenFileOption,
    ConfigOption,
    JsonOption,
    check_service,
    parsed_option,
)
from discovery.fields import Duration, WholeNumber
from discovery.system.terminal import printable

if TYPE_CHECKING:
    from discovery.cli.asking import AdminAddress

NOT_IN_TIME = 3
"""Exit code: the state has not come within `--timeout`."""
_POLL_SECONDS = 20.0
"""Seconds of one question to the daemon, at most."""
_MARGIN_SECONDS = 10.0
"""Seconds that the daemon has for its answer beyond these."""
_AGAIN_SECONDS = 0.2
"""Seconds until a daemon that is being replaced, or that many wait at, is asked again."""
_MOST = 1_000_000_000
"""The largest number of backends."""

_COUNT = WholeNumber(0, _MOST)

_COMPLETION_SECONDS = 1.0
"""Seconds for the answer of a daemon to a shell that completes a word: a person has pressed Tab."""


def _consumer_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of consumers that begin with `incomplete`, of the daemon that the options before it name."""
    from discovery.cli.asking import admin_address, ask

    given = context.params
    files = AdminFiles(*(given.get(f"admin_{each}") for each in ("token_file", "ca", "cert", "key")))
    try:
        address = admin_address(given.get("admin"), given.get("config"), files)
        told = ask(address, "/api/consumers", timeout=_COMPLETION_SECONDS)["consumers"]
        return [each["name"] for each in told if each["name"].startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a shell completes nothing then, and shows no error
        return []


def wait(
    service: Annotated[str, typer.Argument(help="The service.")],
    backends: Annotated[
        float | None,
        parsed_option(_COUNT, "At least so many backends that accept work. Default: 1, or 0 with --at-most."),
    ] = None,
    at_most: Annotated[float | None, parsed_option(_COUNT, "At most so many: 0 waits until the last is gone.")] = None,
    applied_by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="This consumer has applied it; with `*`, `?` or `[...]` each whose name matches. Repeatable.",
            autocompletion=_consumer_names,
        ),
    ] = None,
    revision: Annotated[
        float | None,
        parsed_option(WholeNumber(1, 999_999_999_999_999), "At this revision of the registry or a later one."),
    ] = None,
    timeout: Annotated[float, parsed_option(Duration(zero="look once"), "How long to wait.")] = 60.0,
    as_json: JsonOption = False,
    admin: AdminOption = None,
    admin_token_file: AdminTokenFileOption = None,
    admin_ca: AdminCAOption = None,
    admin_cert: AdminCertOption = None,
    admin_key: AdminKeyOption = None,
    config: ConfigOption = None,
) -> int:
    """Wait until a service has its backends, as a daemon of this machine sees the registry, or has applied it.

    Backends that drain, or have weight 0, do not count. Exit codes: 0 it is so, 1 no daemon answers, 2 wrong usage,
    also a consumer that the daemon does not run, 3 not within --timeout.

    \b
    discovery wait web
    discovery wait web --backends 3 --applied-by haproxy --timeout 2m
    discovery wait web --at-most 0 --applied-by haproxy
    discovery wait redis --applied-by 'ambassador*' --admin 127.0.0.1:9902
    """
    from discovery.cli.asking import admin_address

    check_service(service)
    query = {
        "service": service,
        "backends": _whole(backends),
        "at_most": _whole(at_most),
        "applied_by": applied_by or None,
        "revision": _whole(revision),
    }
    asked_with = AdminFiles(admin_token_file, admin_ca, admin_cert, admin_key)
    with progress(f"{service!r}, for up to {timeout:g} s"):
        document = _poll(
            admin_address(admin, config, asked_with),
            query,
            time.monotonic() + timeout,
        )
    if as_json:
        result(json.dumps(document, indent=2))
    elif document["met"]:
        result(printable(_line(document)))
    else:
        note(f"{document['waiting_for']} after {timeout:g} s")
        for name, problem in document["problems"].items():
            note(f"{name}: {problem}")
    return 0 if document["met"] else NOT_IN_TIME


def _poll(address: "AdminAddress", query: dict[str, Any], deadline: float) -> dict[str, Any]:
    """Ask until the state is there or `deadline`. Raises ConfigError for what the daemon refuses."""
    from discovery.cli.asking import NoDaemonError, RefusedError, ask
    from discovery.errors import ConfigError

    answered = False
    while True:
        begun = time.monotonic()
        # The first answer comes at once, and shows that there is a daemon: one that is killed later is waited for.
        seconds = max(0.0, min(_POLL_SECONDS, deadline - begun)) if answered else 0.0
        try:
            document = ask(address, "/api/wait", {**query, "timeout": f"{seconds:.3f}"}, seconds + _MARGIN_SECONDS)
            if document["met"] or time.monotonic() >= deadline:
                return document
            answered, least = True, seconds
        except NoDaemonError:
            if not answered or time.monotonic() >= deadline:  # else one that has answered restarts
                raise
            least = _AGAIN_SECONDS
        except RefusedError as error:
            # A consumer that was there is made anew by a reload.
            if error.status == 400 or (error.status == 404 and (not answered or time.monotonic() >= deadline)):
                raise ConfigError(str(error)) from None
            if error.status in (401, 403, 429) or time.monotonic() >= deadline:
                raise
            least = _AGAIN_SECONDS
        if time.monotonic() - begun < least:  # not waited: the daemon ends, is away, or has no room
            time.sleep(_AGAIN_SECONDS)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _line(document: dict[str, Any]) -> str:
    told = (
        f"{name + ' has applied ' if name else ''}{count} backends at revision {document['revisions'][name]}"
        for name, count in document["backends"].items()
    )
    return f"{document['service']}: {', '.join(told)}"
