"""The versions of the core that a plugin supports, read from installed metadata: nothing of the plugin is imported.

The range is the plugin's own requirement, `discovery-framework>=0.2,<0.3`, which every distribution of a plugin needs
in any case. Installers check the range only when they install the plugin: a later upgrade of the core breaks the
requirement, and so does a directory on PYTHONPATH.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, version
from itertools import zip_longest
from types import MappingProxyType

CORE = "discovery-framework"
"""The distribution of the core, whose version is that of the API."""

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\])?\s*\(?([^;()]*)\)?\s*(;.*)?")
_CLAUSE = re.compile(r"\s*(===|[<>=!~]=|[<>])\s*v?(\d+(?:\.\d+)*)(\.\*)?\s*")
_RELEASE = re.compile(r"v?(\d+(?:\.\d+)*)")

_COMPARED: Mapping[str, Callable[[int], bool]] = MappingProxyType(
    {
        ">=": lambda order: order >= 0,
        "<=": lambda order: order <= 0,
        ">": lambda order: order > 0,
        "<": lambda order: order < 0,
        "==": lambda order: order == 0,
        "===": lambda order: order == 0,
        "!=": lambda order: order != 0,
    }
)
"""Whether a version suits an operator, by the sign of its comparison with the operand."""


def incompatibility(plugin: Distribution | None) -> str | None:
    """Return why `plugin` does not support this core, or None. A plugin without metadata supports every core."""
    if plugin is None:
        return None
    try:
        installed = version(CORE)
    except PackageNotFoundError:  # a checkout on PYTHONPATH
        return None
    return unsupported(plugin.requires or (), installed)


def unsupported(requirements: Iterable[str], installed: str) -> str | None:
    """Return the requirement among `requirements` that the version `installed` of the core does not meet, or None.

    Only releases are compared. A requirement with a condition, such as an extra, and an operand that is no release, do
    not count.
    """
    release = _RELEASE.match(installed)
    for requirement in requirements:
        parts = _REQUIREMENT.fullmatch(requirement)
        if parts is None or release is None or parts[3] or re.sub(r"[-_.]+", "-", parts[1]).lower() != CORE:
            continue
        clauses = [clause for clause in parts[2].split(",") if clause.strip()]
        if not all(_meets(_numbers(release[1]), clause) for clause in clauses):
            return f"supports {CORE} {','.join(sorted(each.strip() for each in clauses))}, and {installed} is installed"
    return None


def _meets(installed: tuple[int, ...], clause: str) -> bool:
    parts = _CLAUSE.fullmatch(clause)
    if parts is None:
        return True
    operator, operand, is_prefix = parts[1], _numbers(parts[2]), bool(parts[3])
    if operator == "~=":
        return _order(installed, operand) >= 0 and installed[: len(operand) - 1] == operand[:-1]
    compared = installed[: len(operand)] if is_prefix else installed
    return _COMPARED[operator](_order(compared, operand))


def _order(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return -1, 0 or 1. Missing parts are zero: 1 equals 1.0."""
    pairs = list(zip_longest(one, other, fillvalue=0))
    mine, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return (mine > theirs) - (mine < theirs)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))
