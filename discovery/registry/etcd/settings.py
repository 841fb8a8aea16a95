"""The settings of a registry URL for etcd: members, prefix, TLS files, user and password."""

import difflib
import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from discovery.errors import AccessDeniedError, ConfigError
from discovery.registry.url import PASSWORD_VARIABLE, RegistryURL
from discovery.system.certificates import expired

DEFAULT_PORT = 2379
"""The port of etcd for clients, registered with IANA."""
DEFAULT_PREFIX = "/services"

_TLS_OPTIONS = ("ca", "cert", "key", "server_name")
_OPTIONS = (*_TLS_OPTIONS, "password_file")
_ENDPOINT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/?#@]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class TLSMaterial:
    """The contents of the PEM files at the time of reading."""

    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


class TLS(NamedTuple):
    """The paths of the PEM files, and the name of the server.

    `ca` has the trusted authorities (default: the authorities that the system trusts). `cert` and `key` are the client
    certificate, for servers that require a client certificate. `server_name` is the name that the members' certificates
    must have; by default the host in each member's endpoint.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def read(self) -> TLSMaterial:
        """Read the files. Raises ConfigError, which names the file that is missing or is not PEM."""
        return TLSMaterial(
            _pem("ca", self.ca or _system_authorities(), b"CERTIFICATE-----"),
            _pem("cert", self.cert, b"CERTIFICATE-----"),
            _pem("key", self.key, b"PRIVATE KEY-----"),
        )

    def alarms(self) -> tuple[str, ...]:
        """Return an alarm if the client certificate has expired: open connections keep working without an error."""
        with suppress(ConfigError):
            if when := expired(self.read().cert):
                return (f"etcd: the certificate cert={self.cert} expired on {when}: replace it and its key",)
        return ()


@dataclass(frozen=True, slots=True)
class Login:
    """A user, and the password `given` or the `file` with the password. Each login reads the file again."""

    user: str
    given: str | None = field(default=None, repr=False)
    file: Path | None = None

    def password(self) -> str:
        """Return the password. Raises AccessDeniedError if the file cannot be read."""
        if self.file is None:
            return self.given or ""
        try:
            return self.file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise AccessDeniedError(f"etcd: password_file {self.file} cannot be read: {_reason(error)}") from None


class EtcdSettings(NamedTuple):
    """The members of the cluster, the prefix of the keys, the TLS files and the user."""

    endpoints: tuple[str, ...]
    prefix: bytes = b"/services/"
    tls: TLS | None = None
    login: Login | None = None

    @classmethod
    def from_url(cls, url: RegistryURL, environment: Mapping[str, str] = os.environ) -> "EtcdSettings":
        """Return the settings of `etcd://[user[:password]@]host[:port],...[/prefix][?options]`; `etcds://` uses TLS.

        Options: `ca`, `cert`, `key` and `password_file` (paths), `server_name`. Raises ConfigError for an invalid part
        or a file that cannot be read.
        """
        _check_options(url)
        if not url.endpoints:
            raise ConfigError(f"registry {url} names no member: write {url.scheme}://HOST:{DEFAULT_PORT}")
        tls = _tls(url)
        if tls is not None:
            tls.read()
        return cls(
            tuple(dict.fromkeys(_endpoint(url, endpoint) for endpoint in url.endpoints)),
            _prefix(url),
            tls,
            _login(url, environment),
        )

    def __str__(self) -> str:
        """Return the endpoints of the members, for messages."""
        return ", ".join(self.endpoints)


def _check_options(url: RegistryURL) -> None:
    for option in url.options:
        if option not in _OPTIONS:
            near = difflib.get_close_matches(option, _OPTIONS, 1, 0)
            raise ConfigError(f"registry {url} has no option {option!r}: did you mean {near[0]!r}?")
    secure = [option for option in _TLS_OPTIONS if option in url.options]
    if secure and url.scheme != "etcds":
        raise ConfigError(f"registry {url}: the option {secure[0]!r} is for TLS: write etcds://")


def _endpoint(url: RegistryURL, text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if match is None or not text.isprintable() or not 1 <= port <= 65535:
        raise ConfigError(
            f"registry {url}: {text!r} is not HOST or HOST:PORT with a port from 1 to 65535"
            " (an IPv6 address goes in brackets)"
        )
    return f"{match['host']}:{port}"


def _prefix(url: RegistryURL) -> bytes:
    path = url.path.rstrip("/") or DEFAULT_PREFIX
    if not path.isprintable() or "//" in path:
        raise ConfigError(f"registry {url}: the prefix {path!r} has an empty part or an unprintable character")
    return f"{path}/".encode()


def _tls(url: RegistryURL) -> TLS | None:
    if url.scheme != "etcds":
        return None
    files = {name: Path(url.options[name]) for name in ("ca", "cert", "key") if url.options.get(name)}
    if ("cert" in files) != ("key" in files):
        raise ConfigError(f"registry {url}: the options 'cert' and 'key' go together")
    return TLS(files.get("ca"), files.get("cert"), files.get("key"), url.options.get("server_name") or None)


def _login(url: RegistryURL, environment: Mapping[str, str]) -> Login | None:
    file = url.options.get("password_file")
    if url.username is None:
        if file or url.password:
            raise ConfigError(f"registry {url} has a password but no user: write {url.scheme}://USER@HOST:PORT")
        return None
    if url.password:
        return Login(url.username, url.password)
    if file:
        login = Login(url.username, file=Path(file))
        try:
            login.password()
        except AccessDeniedError as error:
            raise ConfigError(str(error)) from None
        return login
    if password := environment.get(PASSWORD_VARIABLE):
        try:
            password.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"registry {url}: {PASSWORD_VARIABLE} is not UTF-8 text") from None
        return Login(url.username, password)
    raise ConfigError(
        f"registry {url}: the user has no password: set {PASSWORD_VARIABLE}, add ?password_file=FILE,"
        " or write USER:PASSWORD@"
    )


def _pem(option: str, path: Path | None, mark: bytes) -> bytes | None:
    if path is None:
        return None
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"etcd: the file of {option}={path} cannot be read: {_reason(error)}") from None
    if mark not in text:
        raise ConfigError(f"etcd: the file of {option}={path} holds no PEM '{mark.decode().rstrip('-').lower()}'")
    return text


def _system_authorities() -> Path | None:
    """Return the file of the authorities that the machine trusts. By default gRPC uses a list of its own.

    An administrator may have added authorities to the machine's file.
    """
    paths = ssl.get_default_verify_paths()
    directory = Path(paths.capath or paths.openssl_capath)
    candidates = (Path(paths.cafile or paths.openssl_cafile), directory / "ca-certificates.crt")
    return next((path for path in candidates if path.is_file()), None)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not UTF-8 text"
