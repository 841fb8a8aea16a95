"""`discovery top`: the state of a daemon and its last changes, shown again and again."""

import asyncio
import json
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from discovery.cli.console import abandon_stdout, result
from discovery.cli.options import (
    AdminCAOption,
    AdminCertOption,
    AdminFiles,
    AdminKeyOption,
    AdminOption,
    AdminTokenFileOption,
    ConfigOption,
    JsonOption,
    parsed_option,
)
from discovery.cli.signals import run_until_signal
from discovery.errors import DiscoveryError
from discovery.fields import Duration, WholeNumber
from discovery.system.asyncio_tools import on_thread
from discovery.system.terminal import printable

if TYPE_CHECKING:
    from discovery.cli.asking import AdminAddress

_CHANGES = 20
"""Changes that are asked for: as many as a screen has room for."""
_PLAIN_LINES = 1000
"""Lines of a picture that is no screen's."""
_CLEAR, _REST = "\x1b[H", "\x1b[J"
"""To the first line of the screen; clear from here to its end."""


def top(
    interval: Annotated[float, parsed_option(Duration(0.2, 3600), "Time between two pictures.")] = 1.0,
    count: Annotated[
        float | None, parsed_option(WholeNumber(1, 1_000_000), "How many pictures. Default: until Ctrl-C.")
    ] = None,
    as_json: JsonOption = False,
    admin: AdminOption = None,
    admin_token_file: AdminTokenFileOption = None,
    admin_ca: AdminCAOption = None,
    admin_cert: AdminCertOption = None,
    admin_key: AdminKeyOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the state of a daemon and its last changes, again and again.

    A terminal shows the newest picture alone. Elsewhere the pictures follow each other as plain text; with --json each
    is a line. A daemon that is away is asked again.

    \b
    discovery top
    discovery top --count 1
    """
    from discovery.cli.asking import admin_address

    asked_with = AdminFiles(admin_token_file, admin_ca, admin_cert, admin_key)
    address = admin_address(admin, config, asked_with)
    run_until_signal(_show(address, interval, None if count is None else int(count), as_json))


async def _show(address: "AdminAddress", interval: float, count: int | None, as_json: bool) -> None:
    on_terminal = sys.stdout.isatty() and not as_json
    shown = 0
    try:
        while count is None or shown < count:
            if shown:
                await asyncio.sleep(interval)
            document = await on_thread(partial(_ask, address), "ask")  # which a signal leaves to itself
            if as_json:
                result(json.dumps(document))
            else:
                _print(picture(document, on_terminal=on_terminal), on_terminal=on_terminal, first=shown == 0)
            shown += 1
    except BrokenPipeError:
        abandon_stdout()


def picture(document: dict[str, Any], *, on_terminal: bool) -> list[str]:
    """Return the lines of a picture, cut to the terminal where there is one."""
    from discovery.cli.screen import change_lines, status_lines

    size = shutil.get_terminal_size()
    width = size.columns if on_terminal else None
    if (error := document.get("error")) is not None:
        lines = [error]
    else:
        lines = [*status_lines(document["status"], width), "", *change_lines(document["history"], width)]
    lines = [printable(line)[:width] for line in lines]  # what answers may be no daemon
    return lines[: size.lines - 2 if on_terminal else _PLAIN_LINES]  # `result` ends a line, too


def _print(lines: Sequence[str], *, on_terminal: bool, first: bool) -> None:
    if on_terminal:
        # Each line is cleared just before its text, and the screen below the last: without a flicker. Behind the text
        # of a line that fills the terminal the cursor stands on the last character, which would be cleared.
        text = "".join(f"\x1b[K{line}\n" for line in lines)
        result(("\x1b[2J" if first else "") + _CLEAR + text + _REST)
        return
    if not first:
        result("")
    for line in lines:
        result(line)


def _ask(address: "AdminAddress") -> dict[str, Any]:
    from discovery.cli.asking import ask

    try:
        return {"status": ask(address, "/api/status"), "history": ask(address, "/api/history", {"limit": _CHANGES})}
    except DiscoveryError as error:
        return {"error": str(error)}
