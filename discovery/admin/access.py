"""Who may ask the admin endpoint, and over TLS or not: the files that say so, and what they hold."""

import ipaddress
import os
import ssl
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from discovery.admin.credentials import token_of
from discovery.errors import ConfigError

Metrics = Literal["authenticated", "open", "off"]

_MOST_BYTES = 64 * 1024
"""Bytes of a secret's file: more is another file, named by mistake."""


class AccessSettings(NamedTuple):
    """The settings of who may ask, as paths.

    `token_file` holds the token. `metrics` says to whom `/metrics` is told: to those who are authenticated, to all, or
    to nobody. `cert` and `key` are the certificate of the server, and `client_ca` the authorities of clients: who has a
    certificate of theirs may ask.
    """

    token_file: Path | None = None
    metrics: Metrics = "authenticated"
    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    @property
    def asks_for_credentials(self) -> bool:
        """Whether a client has to say who it is."""
        return self.token_file is not None or self.client_ca is not None

    def read(self) -> "Access":
        """Read the files. Raises ConfigError, which names the key, the file and the way out, and no content."""
        token = None if self.token_file is None else read_token("admin_token_file", self.token_file)
        return Access(token, self.metrics, self._tls(), self.client_ca is not None)

    def _tls(self) -> ssl.SSLContext | None:
        """Return what speaks TLS with clients; None without a certificate. Raises ConfigError."""
        if self.cert is None or self.key is None:
            if self.cert is not None or self.key is not None:
                raise ConfigError("admin_cert and admin_key go together: name both files")
            if self.client_ca is not None:
                raise ConfigError("admin_client_ca needs TLS: name a certificate with admin_cert and admin_key")
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        load_chain(context, "admin_cert", self.cert, "admin_key", self.key)
        if self.client_ca is not None:
            load_authorities(context, "admin_client_ca", self.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL  # health needs none, and a token is as good
        return context


class Access(NamedTuple):
    """Who may ask, as the files said when they were read.

    `tls` is None for plain HTTP. With `client_ca` a client whose certificate `tls` has verified may ask. Without it and
    without a token everybody may.
    """

    token: str | None = None
    metrics: Metrics = "authenticated"
    tls: ssl.SSLContext | None = None
    client_ca: bool = False

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask for everything."""
        return self.token is None and not self.client_ca

    def __repr__(self) -> str:
        """Return a text without the token."""
        return f"Access(is_open={self.is_open}, metrics={self.metrics!r}, tls={self.tls is not None})"


def load_chain(context: ssl.SSLContext, cert_key: str, cert: Path, key_key: str, key: Path) -> None:
    """Have `context` present the certificate in `cert`. The first argument of each pair names the setting.

    Raises ConfigError for a file that cannot be used, and for a private key that others can read.
    """
    read_secret(key_key, key)
    _check_readable(cert_key, cert)
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise ConfigError(
            f"{cert_key}: {cert} and {key_key}: {key} are no certificate in PEM and its key ({reason})"
        ) from None


def load_authorities(context: ssl.SSLContext, key: str, path: Path) -> None:
    """Have `context` trust the authorities in the file `path`. `key` names the setting. Raises ConfigError."""
    _check_readable(key, path)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise ConfigError(f"{key}: {path} holds no certificates in PEM ({reason})") from None


def _check_readable(key: str, path: Path) -> None:
    try:
        path.read_bytes()
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError(f"{key}: {path} cannot be read: {reason}") from None


def _refuse_password(*_: object) -> NoReturn:
    """OpenSSL would ask for a password on the terminal."""
    raise ValueError("the key is encrypted: write it without a password")


def read_token(key: str, path: Path) -> str:
    """Return the token in the file. `key` names the setting. Raises ConfigError, without any of the text."""
    try:
        return token_of(read_secret(key, path).decode("ascii"))
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path} holds no token: it is no text of ASCII") from None
    except ValueError as error:
        raise ConfigError(f"{key}: {path} holds no token: {error}") from None


def read_secret(key: str, path: Path) -> bytes:
    """Return what is in a file that others may neither read nor write. Raises ConfigError otherwise.

    A group may read it: people of a group ask the daemon.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not keep us waiting
    except (OSError, ValueError) as error:  # a path may have a NUL
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError(f"{key}: {path} cannot be read: {reason}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{key}: {path} is no regular file")
        if status.st_mode & 0o027:
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            raise ConfigError(
                f"{key}: others than its owner and its group can read {path}, or others than its owner can write to it"
                f" (its mode is {mode}): chmod 0640 {path}, or mode: 0440 of a secret in a Swarm stack"
            )
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{key}: {path} has more than {_MOST_BYTES} bytes")
    return content


def is_loopback(host: str) -> bool:
    """Return True if `host` is an address of this machine alone. Of names `localhost` alone is taken for one."""
    if host.removesuffix(".").lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def check_exposure(hosts: Iterable[str], settings: AccessSettings) -> None:
    """Raise ConfigError, which names the ways out, if all who reach one of `hosts` could ask for everything."""
    if settings.asks_for_credentials:
        return
    for host in hosts:
        if not is_loopback(host):
            raise ConfigError(
                f"admin: other machines can reach {host}, and nobody would ask them who they are: name the file of a"
                " token with admin_token_file (--admin-token-file), or the authorities of clients' certificates with"
                ' admin_client_ca, listen on 127.0.0.1, or turn it off (admin = "off")'
            )
