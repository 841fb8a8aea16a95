"""`discovery plugins`: lists the installed plugins, and the plugins that cannot be loaded."""

import json
from typing import Any

from discovery.cli.console import result
from discovery.cli.options import JsonOption


def plugins(as_json: JsonOption = False) -> int:
    """List the installed plugins with what each provides, or the reason if a plugin cannot be loaded.

    The exit code is 1 if a plugin cannot be loaded.
    """
    from discovery.errors import PluginError
    from discovery.hosting import loading as registered

    rows: list[dict[str, Any]] = []
    for name, point in sorted(registered.installed().items()):
        row: dict[str, Any] = {
            "name": name,
            "distribution": point.dist.name if point.dist else None,
            "version": point.dist.version if point.dist else None,
            "provides": [],
            "error": None,
        }
        try:
            row["provides"] = list(registered.load(name).provides)
        except PluginError as error:
            row["error"] = str(error)
        rows.append(row)
    if as_json:
        result(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    return 1 if any(row["error"] for row in rows) else 0


def _print_table(rows: list[dict[str, Any]]) -> None:
    from discovery.cli.table import print_table

    lines = [
        (row["name"], f"{row['distribution']} {row['version']}", row["error"] or ", ".join(row["provides"]))
        for row in rows
    ]
    print_table(("PLUGIN", "FROM", "PROVIDES"), lines)
