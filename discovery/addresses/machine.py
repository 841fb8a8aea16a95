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
_FAMILIES: tuple[Family, ...] = (4, 6)


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

    def read(self) -> tuple[Announced, ...]:
        """Return the addresses now, the preferred address first: see `own_addresses`, whose ValueError is raised.

        Blocks for up to 3 s where `metadata` is configured; an answer of the metadata service counts for 60 s, and
        longer while the service does not answer. Otherwise does not block.
        """
        environment = os.environ if self._environment is None else self._environment
        asks = {METADATA, PUBLIC}.intersection(sources(self._configured, environment)[0])
        facts = MachineFacts(
            environment,
            interface_addresses(),
            {family: address for family in _FAMILIES if (address := primary_address(family)) is not None},
            self._ask_cloud() if asks else None,
        )
        return own_addresses(self._configured, facts)

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
