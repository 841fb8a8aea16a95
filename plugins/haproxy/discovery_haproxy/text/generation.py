"""Generations: what identifies a configuration, in `show info` and in the configuration file.

A generation is `cfg-RELOAD-SERVERS`. RELOAD is the hash of what only a reload changes: every line but the servers, and
the files that the text names, but for certificates and maps, of which the names alone count. SERVERS is the hash of the
whole text with all of these files. The description of a running HAProxy is the generation with which the worker
started; the runtime API has changed servers, certificates and maps since.
"""

import re

_GENERATION = re.compile(r"^\s*description\s+(cfg-[0-9a-f]+(?:-[0-9a-f]+)?)\s*$", re.MULTILINE)
_RELOAD_PART = re.compile(r"cfg-[0-9a-f]+")


def reload_part(generation: str) -> str:
    """Return the part of a generation that only a reload changes."""
    found = _RELOAD_PART.match(generation)
    return found[0] if found else generation


def generation_of(text: str) -> str | None:
    """Return the generation of a configuration text; None if the text has none."""
    found = _GENERATION.search(text)
    return found[1] if found else None
