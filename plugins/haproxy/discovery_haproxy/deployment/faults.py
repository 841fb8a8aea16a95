"""The parts of a configuration that are accepted and refused singly, and the faults for which HAProxy refuses them."""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

_LINE = re.compile(r"^line (\d+) \(|\[/dev/stdin:(\d+)\]")


class PartKind(StrEnum):
    """The kinds of parts."""

    SETTINGS = "settings"
    """The instance's own options with the template: everything that is no service and no bind."""
    SERVICE = "service"
    """The options of a service, but for its binds."""
    BIND = "bind"
    """An address of a service, with its options and certificates."""
    STATS = "stats"
    """The address of the statistics page."""
    SECTION = "section"
    """A section of the user's own."""


class Part(NamedTuple):
    """A part. `service` is empty for a bind that all services share by host name, `address` is for binds.

    `section` is the kind and the name of a section.
    """

    kind: PartKind
    service: str = ""
    address: str = ""
    section: str = ""

    def __str__(self) -> str:
        """Name the part for a person."""
        if self.kind is PartKind.SERVICE:
            return f"service {self.service!r}"
        if self.kind is PartKind.BIND:
            return f"bind {self.address} of {self.service!r}" if self.service else f"bind {self.address}"
        if self.kind is PartKind.SECTION:
            return f"section {self.section!r}"
        return "the global settings" if self.kind is PartKind.SETTINGS else "the address of 'stats'"


SETTINGS = Part(PartKind.SETTINGS)
STATS = Part(PartKind.STATS)


class Fault(NamedTuple):
    """A reason why a configuration is refused.

    `line` is the number of the refused line of the text, `address` the address that cannot be bound, in the form of
    `listeners_in`, `part` the part if the part is known; each is None if unknown.
    """

    text: str
    line: int | None = None
    address: str | None = None
    part: Part | None = None

    @classmethod
    def of_alert(cls, text: str) -> "Fault":
        """Return the fault that an alert of HAProxy is about, which may name a line."""
        found = _LINE.search(text)
        return cls(text, line=int(found[1] or found[2]) if found else None)


class Refusal(NamedTuple):
    """The refusal of a configuration: a message for people, and every fault.

    `by_load` is True if the check accepted the configuration and a reload or a start failed.
    """

    message: str
    faults: tuple[Fault, ...]
    by_load: bool = False

    @classmethod
    def of_alerts(cls, program: str, alerts: Iterable[str]) -> "Refusal | None":
        """Return the refusal by a program that has checked the configuration; None without an alert."""
        return cls.of_faults(tuple(map(Fault.of_alert, alerts)), f"{program} refuses the new configuration: ")

    @classmethod
    def of_faults(cls, faults: tuple[Fault, ...], introduction: str = "") -> "Refusal | None":
        """Return the refusal for the faults; None without a fault."""
        if not faults:
            return None
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return cls(f"{introduction}{faults[0].text}{more}", faults)
