"""The core's probes, and the options with which a user configures a check.

Public API. A probe is immutable, and runs on the event loop of the provider whose backend the probe examines.
"""

from discovery.probes.command import CommandProbe
from discovery.probes.http import HttpProbe, HttpResponse
from discovery.probes.reported import ReportedProbe
from discovery.probes.settings import CheckSettings
from discovery.probes.tcp import Address, TcpProbe, failing, reason

__all__ = [
    "Address",
    "CheckSettings",
    "CommandProbe",
    "HttpProbe",
    "HttpResponse",
    "ReportedProbe",
    "TcpProbe",
    "failing",
    "reason",
]
