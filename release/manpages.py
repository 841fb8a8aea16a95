"""Manual pages of `discovery` and of each of its commands, from what the commands say of themselves.

click-man writes pages of click's own commands alone; typer has a copy of click, and drop-in commands are loaded late.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer

from discovery.cli.app import app

_UNWRAPPED = "\b"
"""The line that begins a paragraph whose lines stay as they are, in click's help texts."""
_CHARACTERS = str.maketrans(
    {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", '"': "\\(dq", "^": "\\(ha", "~": "\\(ti"}
)
"""What roff would replace, as it is."""
_FILES = """\
.TP
.I /etc/discovery/discovery.toml
The configuration that every command reads, unless
.B \\-\\-config
or
.B DISCOVERY_CONFIG
names another file.
"""


class Page(NamedTuple):
    """A manual page of section 1."""

    name: str
    text: str

    @property
    def file(self) -> str:
        """The name of the file."""
        return f"{self.name}.1"


def pages(version: str, date: str) -> tuple[Page, ...]:
    """Return the page of `discovery` and of each command, those of the installed plugins included.

    `date` is the date of the release, in ISO form.
    """
    root = typer.Context(typer.main.get_command(app), info_name="discovery")
    contexts = list(_contexts(root))
    names = [_name(context) for context in contexts]
    return tuple(Page(_name(context), _page(context, names, version, date)) for context in contexts)


def write(target: Path, version: str, date: str) -> tuple[Path, ...]:
    """Write the pages into the directory `target`, and return the files."""
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for page in pages(version, date):
        written.append(target / page.file)
        written[-1].write_text(page.text)
    return tuple(written)


def escape(text: str) -> str:
    """Return `text` as roff that prints the same characters and holds no request."""
    return re.sub(r"^(?=[.])", r"\\&", text.translate(_CHARACTERS), flags=re.MULTILINE)


def _contexts(context: Any) -> Iterator[Any]:
    yield context
    if hasattr(context.command, "list_commands"):
        for name in context.command.list_commands(context):
            _, command, _ = context.command.resolve_command(context, [name])
            if command is not None and not command.hidden:
                yield from _contexts(typer.Context(command, info_name=name, parent=context))


def _name(context: Any) -> str:
    return str(context.command_path).replace(" ", "-")


def _page(context: Any, names: Iterable[str], version: str, date: str) -> str:
    command = context.command
    summary, _, rest = str(command.help or "").strip().partition("\n")
    lines = [
        f'.TH "{_name(context).upper()}" "1" "{date}" "discovery {version}" "discovery"',
        ".SH NAME",
        f"{escape(_name(context))} \\- {escape(summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {escape(context.command_path)}",
        escape(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_description(f"{summary}\n{rest}"),
    ]
    records = [(param, param.get_help_record(context)) for param in command.get_params(context)]
    for title, is_option in (("ARGUMENTS", False), ("OPTIONS", True)):
        some = [record for param, record in records if record and (param.param_type_name == "option") is is_option]
        lines += [f".SH {title}", *definitions(some)] if some else []
    if hasattr(command, "list_commands"):
        found = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
        lines += [
            ".SH COMMANDS",
            *definitions((name, str(each.help).strip().partition("\n")[0]) for name, each in found),
        ]
    if not context.parent:
        lines += [".SH FILES", _FILES.rstrip()]
        lines += [".SH EXIT STATUS", *_description(str(command.epilog or ""))]
    others = [escape(each) for each in names if each != _name(context)]
    lines += [".SH SEE ALSO", ",\n".join(f".BR {each} (1)" for each in others)]
    return "\n".join(lines) + "\n"


def _description(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
        if number:
            yield ".PP"
        if (lines and lines[0] == _UNWRAPPED.strip()) or paragraph.startswith(_UNWRAPPED):
            yield from (".nf", *(escape(line.replace(_UNWRAPPED, "")) for line in lines if line != _UNWRAPPED), ".fi")
        else:
            yield from (escape(line) for line in lines)


def definitions(records: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in records:
        yield from (".TP", f".B {escape(term)}", *(_description(text) if text else ("\\&",)))
