"""Generations: what identifies a configuration, in `show info` and in the configuration file.

A generation is `cfg-RELOAD-SERVERS`. RELOAD is the hash of what only a reload changes: every line but the servers, and
the files that the text names, but for certificates and maps, of which the names alone count. SERVERS is the hash of the
whole text with all of these files. The description of a running HAProxy is the generation with which the worker
started; the runtime API has changed servers, certificates and maps since.
"""

import re
from typing import NamedTuple

_GENERATION = re.compile(
    r"^\s*(?:description|set-var proc\.discovery_\w+)\s+(?:str\()?(cfg-[0-9a-f]+(?:-[0-9a-f]+)?)\)?\s*$", re.MULTILINE
)
MARKS = ("description ", "set-var proc.discovery_")
"""Begins of the lines that may name the generation."""
_RELOAD_PART = re.compile(r"cfg-[0-9a-f]+")
_ANSWER = re.compile(r"cfg-[0-9a-f]+(?:-[0-9a-f]+)?")


class Marker(NamedTuple):
    """The line of a configuration that names the generation, so that a running HAProxy can be asked for the generation.

    `variable` is the name of a variable of HAProxy's process; empty for the description in `show info`.
    """

    variable: str = ""

    @property
    def commands(self) -> tuple[str, ...]:
        """Commands whose answers name the generation, after `show info`."""
        return (f"get var {self.variable}",) if self.variable else ()

    def generation(self, answer: str) -> str | None:
        """Return the generation that the answers to `show info` and to `commands` name; None if they name none."""
        begin = f"{self.variable}: type=str value=<" if self.variable else "description: "
        for line in answer.splitlines():
            if line.startswith(begin):
                found = _ANSWER.match(line, len(begin))
                return found[0] if found else None
        return None


DESCRIPTION = Marker()
"""The description of the process, for a configuration that is discovery's alone."""


def reload_part(generation: str) -> str:
    """Return the part of a generation that only a reload changes."""
    found = _RELOAD_PART.match(generation)
    return found[0] if found else generation


def generation_of(text: str) -> str | None:
    """Return the generation of a configuration text; None if the text has none."""
    found = _GENERATION.search(text)
    return found[1] if found else None
