"""TLS towards other daemons: whom this daemon trusts, and what it presents."""

import ssl
from pathlib import Path
from typing import NamedTuple

from discovery.admin.access import load_authorities, load_chain


class TrustSettings(NamedTuple):
    """The files, as paths: `ca` has the authorities of other daemons, `cert` and `key` the certificate of this one."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext | None:
        """Return what speaks TLS with other daemons; None without authorities. Blocks.

        Raises ConfigError, which names the setting and the file.

        In TLS 1.3 a client sends its certificate after it has received and verified that of the server (RFC 8446, 2 and
        4.4): a server with another name, or of other authorities, gets an alert in its place.
        """
        if self.ca is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the chain and the name
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        load_authorities(context, "fleet_ca", self.ca)
        if self.cert is not None and self.key is not None:
            load_chain(context, "admin_cert", self.cert, "admin_key", self.key)
        return context
