"""The check of a status page, as the configuration describes the page."""

from discovery import Check
from discovery.probes import HttpProbe
from discovery_apache.config import StatusSettings
from discovery_apache.modstatus import StatusProbe

_TIMEOUT_MARGIN = 0.5
"""Seconds by which the check's timeout exceeds the probe's own, so that the probe reports the timeout."""


def status_check(page: HttpProbe, settings: StatusSettings, *, load: bool) -> Check:
    """Return the check of a status page. With `load` the weight of the backend follows the server's idle workers."""
    return Check(
        StatusProbe(page, settings.timeout, load),
        interval=settings.interval,
        timeout=2 * settings.timeout + _TIMEOUT_MARGIN,
        rise=settings.rise,
        fall=settings.fall,
        on_failure=settings.on_failure,
        weight_interval=settings.weight_interval,
    )
