"""New contents of a map that HAProxy has loaded. Pure.

HAProxy's management guide, "add map", "prepare map", "commit map" and "show map". No request meets a half-changed map:
a single command changes the map, or a new version of the map is filled, and replaces the old version at once.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from discovery_haproxy.runtime_api.commands import Command

Entry = tuple[str, str]
"""A key and its value."""

_MOST_BYTES = 15_000
"""Largest payload of a command: HAProxy closes the connection if a command fills `tune.bufsize`, 16,384 bytes."""
_SILENCE = re.compile(r"[+\s]*")
"""The answer to a command that succeeds, with the prompts for the lines of a payload."""
_WORD = re.compile(r"[A-Za-z0-9_.:,/@%+=*~-]+")
"""A word with one meaning in a map file and in a command. In a payload any visible characters are a word."""
_VISIBLE = re.compile(r"[!-~]+")
_CREATED = re.compile(r"New version created: ([0-9]+)\s*")
_SHOWN = re.compile(r"^0x[0-9a-f]+ (\S+) (\S+)$", re.MULTILINE)


def parse_map(text: str) -> tuple[Entry, ...]:
    """Return the entries of a map file, in order. Raises ValueError for a line that commands cannot carry."""
    entries = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        key, _, value = line.partition(" ")
        if not (_VISIBLE.fullmatch(key) and _VISIBLE.fullmatch(value)):
            raise ValueError(f"commands cannot carry the entry {line!r}")
        entries.append((key, value))
    return tuple(entries)


def parse_shown(answer: str) -> tuple[Entry, ...]:
    """Return the entries in the answer to `show map PATH`."""
    return tuple(_SHOWN.findall(answer))


def difference(path: str, live: Iterable[Entry], wanted: Iterable[Entry]) -> str:
    """Return the difference of a live map from the wanted map in words; empty if there is none."""
    present, expected = Counter(live), Counter(wanted)
    if present == expected:
        return ""
    extra, missing = present - expected, expected - present
    return f"the map {path} lacks {missing.total()} entries and has {extra.total()} too many"


def single_command(path: str, live: Iterable[Entry], wanted: Iterable[Entry]) -> Command | None:
    """Return the one command that makes the change; None if there is no such command."""
    present, expected = Counter(live), Counter(wanted)
    removed, added = list((present - expected).elements()), list((expected - present).elements())
    keys = Counter(key for key, _ in present.elements())
    if not all(_WORD.fullmatch(word) for entry in (*removed[:2], *added[:2]) for word in entry):
        return None
    match removed, added:
        case [], [(key, value)]:
            return Command(f"add map {path} {key} {value}", _SILENCE)
        case [(key, _)], [] if keys[key] == 1:
            return Command(f"del map {path} {key}", _SILENCE)
        case [(before, _)], [(key, value)] if before == key and keys[key] == 1:
            return Command(f"set map {path} {key} {value}", _SILENCE)
    return None


def prepare_command(path: str) -> Command:
    """Return the command that begins a new version of the map."""
    return Command(f"prepare map {path}", _CREATED)


def created_version(answer: str) -> int:
    """Return the version that `prepare map` has begun. Raises ValueError for any other answer."""
    found = _CREATED.fullmatch(answer)
    if found is None:
        raise ValueError(f"not a version of a map: {answer.strip()[:100]!r}")
    return int(found[1])


def version_commands(path: str, version: int, wanted: Iterable[Entry]) -> tuple[Command, ...]:
    """Return the commands that fill a new version of the map, and then put the version in the place of the old."""
    fill = (Command(f"add map @{version} {path} <<", _SILENCE, payload) for payload in _payloads(wanted))
    return (*fill, Command(f"commit map @{version} {path}", _SILENCE))


def _payloads(entries: Iterable[Entry]) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for key, value in entries:
        line = f"{key} {value}\n"
        if lines and size + len(line) > _MOST_BYTES:
            yield "".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield "".join(lines)
