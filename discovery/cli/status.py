"""`discovery status`: the state of a daemon on one screen."""

import json

from discovery.cli.console import result
from discovery.cli.options import AdminOption, AdminTokenFileOption, ConfigOption, JsonOption


def status(
    as_json: JsonOption = False,
    admin: AdminOption = None,
    admin_token_file: AdminTokenFileOption = None,
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

    document = ask(admin_address(admin, config, admin_token_file), "/api/status")
    if as_json:
        result(json.dumps(document, indent=2))
    else:
        for line in status_lines(document):
            result(line)
    return 1 if document["status"] == "failing" else 0
