"""Reads the facts of this machine, from which the announced address follows."""

import os
import time
from collections.abc import Iterable, Mapping

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

    def __init__(self, configured: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> None:
        """Keep the arguments. `configured` are the forms of `SOURCES`; `environment` is by default the process's.

        Raises ValueError, one line, for any other form.
        """
        self._configured = tuple(parse_source(source) for source in configured)
        self._environment = environment
        self._metadata: CloudAddresses | str | None = None
        self._ask_at = 0.0  # by the monotonic clock

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
        """Return the facts of the machine now, from which `own_addresses` derives the addresses."""
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
