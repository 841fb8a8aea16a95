"""Reads the facts of this machine, from which the announced address follows."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from discovery.addresses.interfaces import interface_addresses, primary_address
from discovery.addresses.kinds import Family
from discovery.addresses.rule import (
    METADATA,
    PUBLIC,
    Announced,
    CloudAddresses,
    MachineFacts,
    own_addresses,
    parse_source,
    sources,
    unusable_variables,
)

_METADATA_EVERY = 60.0
"""Seconds between two requests to the metadata service: addresses of a running machine change rarely."""
_FAILURE_EVERY = 5.0
"""Seconds between two requests before the first answer: a request without an answer takes seconds."""
_FAMILIES: tuple[Family, ...] = (4, 6)  # IPv4 and IPv6


class OwnAddresses:
    """The addresses of this machine to announce, read again and again. For one thread at a time.

    A provider makes one of its option `address`, and reads the addresses for each inventory.
    """

    def __init__(
        self,
        configured: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        warn: Callable[[str], object] = lambda text: None,
    ) -> None:
        """Keep the arguments. `configured` are the forms of `SOURCES`; `environment` is by default the process's.

        `warn` is called with a line for each environment variable that should have an address and has another text,
        once for each text.

        Raises ValueError, one line, for any other form.
        """
        self._configured = tuple(parse_source(source) for source in configured)
        self._environment = environment
        self._warn = warn
        self._metadata: CloudAddresses | str | None = None
        self._ask_at = 0.0  # by the monotonic clock
        self._unusable: Mapping[str, str] = {}  # as `warn` was told last

    @property
    def malformed(self) -> str | None:
        """Why `DISCOVERY_ADDRESS` is wrong on every machine, in a line; None if it has a valid form, or does not count.

        For `Provider.validate`: such a text is a fault, where an address that this machine lacks may be another's.
        """
        try:
            sources(self._configured, self._variables)
        except ValueError as error:
            return str(error)
        return None

    @property
    def blocks(self) -> bool:
        """True if the methods block, because the metadata service is asked; otherwise they do no I/O but system calls.

        They block for up to 3 s. An answer counts for 60 s, and longer while the service does not answer.
        """
        try:
            return not {METADATA, PUBLIC}.isdisjoint(sources(self._configured, self._variables)[0])
        except ValueError:  # which the rule reports
            return False

    def read(self) -> tuple[Announced, ...]:
        """Return the addresses now, the preferred address first: see `own_addresses`, whose ValueError is raised."""
        return own_addresses(self._configured, self.facts())

    def facts(self) -> MachineFacts:
        """Return the facts of the machine now, from which `own_addresses` derives the addresses.

        Calls `warn`.
        """
        self._warn_of_unusable()
        return MachineFacts(
            self._variables,
            interface_addresses(),
            {family: address for family in _FAMILIES if (address := primary_address(family)) is not None},
            self._ask_cloud() if self.blocks else None,
        )

    @property
    def _variables(self) -> Mapping[str, str]:
        """The environment variables."""
        return os.environ if self._environment is None else self._environment

    def _warn_of_unusable(self) -> None:
        with suppress(ValueError):  # which the rule reports
            before, self._unusable = self._unusable, unusable_variables(self._configured, self._variables)
            for name, value in self._unusable.items():
                if before.get(name) != value:
                    self._warn(f"{name} is ignored: {value[:60]!r} is not an IP address that other machines can reach")

    def _ask_cloud(self) -> CloudAddresses | str | None:
        from discovery.addresses.metadata import MetadataError, cloud_addresses  # imported on use: most never ask

        if time.monotonic() >= self._ask_at:
            try:
                self._metadata = cloud_addresses()
            except MetadataError as error:
                if not isinstance(self._metadata, CloudAddresses):
                    self._metadata = str(error)
            known = isinstance(self._metadata, CloudAddresses)
            self._ask_at = time.monotonic() + (_METADATA_EVERY if known else _FAILURE_EVERY)
        return self._metadata
