"""The probes that come with the core, and the settings with which a plugin's user asks for one.

Public: plugins of third parties import it.
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
