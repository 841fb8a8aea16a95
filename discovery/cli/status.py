"""`discovery status`: the state of a daemon on one screen."""

import json

from discovery.cli.console import result
from discovery.cli.options import (
    AdminCAOption,
    AdminCertOption,
    AdminFiles,
    AdminKeyOption,
    AdminOption,
    AdminTokenFileOption,
    ConfigOption,
    JsonOption,
)
from discovery.system.terminal import printable


def status(
    as_json: JsonOption = False,
    admin: AdminOption = None,
    admin_token_file: AdminTokenFileOption = None,
    admin_ca: AdminCAOption = None,
    admin_cert: AdminCertOption = None,
    admin_key: AdminKeyOption = None,
    config: ConfigOption = None,
) -> int:
    """Tell the state of a daemon on one screen: its registry, its consumers and providers, and what is wrong.

    The exit code is 0 if the daemon is well or does a part of its work, and 1 if it is failing, or none answers.

    \b
    discovery status
    discovery status --json
    """
    from discovery.cli.asking import admin_address, ask
    from discovery.cli.screen import status_lines
    from discovery.cli.table import terminal_width

    asked_with = AdminFiles(admin_token_file, admin_ca, admin_cert, admin_key)
    document = ask(admin_address(admin, config, asked_with), "/api/status")
    if as_json:
        result(json.dumps(document, indent=2))
    else:
        for line in status_lines(document, terminal_width()):
            result(printable(line))
    return 1 if document["status"] == "failing" else 0
