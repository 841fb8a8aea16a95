"""A file that stands in a configuration as it is, and the place in that file of a line of the configuration. Pure."""

from collections.abc import Sequence

_BEGIN = "# Included: "


def inclusion(path: str, text: str) -> str:
    """Return the lines of the file `path` as a part of a configuration. No other part may follow but inclusions."""
    end = "" if not text or text.endswith("\n") else "\n"
    return f"\n{_BEGIN}{path}\n{text}{end}"


def place_in_file(lines: Sequence[str], number: int) -> str:
    """Return the path and the number, as `/etc/haproxy/own.cfg:12`, of line `number` of a configuration.

    Empty if the line is in no included file.
    """
    for index in range(min(number, len(lines)) - 1, -1, -1):
        if lines[index].startswith(_BEGIN):
            return f"{lines[index].removeprefix(_BEGIN)}:{number - index - 1}"
    return ""
