"""The settings of the fleet: whether a daemon announces itself, where, and whom it asks."""

from typing import NamedTuple

from discovery.fleet.trust import TrustSettings

OWN_MACHINE = ("127.0.0.0/8", "::1/128")
"""The networks in which daemons are asked unless the settings name others: the loopback."""


class FleetSettings(NamedTuple):
    """The settings of the fleet: `announce` is whether the daemon announces itself.

    `address` is where others reach the admin endpoint, a source of `discovery.addresses`; None: where it listens.
    `prefix` is where daemons are recorded; None is the default of the registry. `networks` are those in which daemons
    are asked, and `trust` has the files for those that are asked by https.
    """

    announce: bool = False
    address: str | None = None
    prefix: str | None = None
    networks: tuple[str, ...] = OWN_MACHINE
    trust: TrustSettings = TrustSettings()
