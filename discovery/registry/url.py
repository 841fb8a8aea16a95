"""Registry URLs: `scheme://[user[:password]@]host:port[,host:port...][/path][?option=value&...]`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from discovery.errors import ConfigError
from discovery.system.environment import PASSWORD_VARIABLE

__all__ = ["PASSWORD_VARIABLE", "RegistryURL"]

_ACCESS = frozenset(("password_file", "ca", "cert", "key", "server_name"))
"""Options that say how a registry is reached, and not which registry is meant."""


@dataclass(frozen=True, slots=True)
class RegistryURL:
    """The parts of a registry URL: `scheme://[user[:password]@]host:port[,host:port...][/path][?option=value&...]`.

    `scheme` is in lower case. `endpoints` has each `host:port`. `username` and `password` are decoded, and None if
    missing, as in a URL without a login. `options` has the query. `settings` are the validated options of a plugin's
    registry in the configuration; None if the URL comes from elsewhere. `str()` returns the URL without the password
    and the options, for logs.
    """

    scheme: str
    endpoints: tuple[str, ...] = ()
    path: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    settings: Any = field(default=None, hash=False, repr=False)

    @classmethod
    def parse(cls, url: str) -> "RegistryURL":
        """Return the parts of `url`. Raises ConfigError if `url` is not a URL, or names an option twice."""
        if "://" not in url:
            shown = url.rpartition("@")[2]  # a password may stand before the "@"
            raise ConfigError(f"registry {shown!r} is not a URL: write etcd://HOST:PORT or file:///DIRECTORY")
        # Not by urlsplit: in newer Pythons urlsplit refuses several IPv6 addresses in brackets.
        scheme, _, rest = url.partition("#")[0].strip().partition("://")
        rest, _, query = rest.partition("?")
        netloc, slash, path = rest.partition("/")
        if not (scheme + rest).isprintable():  # the message shows no part of the URL: the password may be that part
            raise ConfigError("the registry URL has an unprintable character: write such characters as %XX")
        login, at, hosts = netloc.rpartition("@")
        # A "/", "?" or "#" in the password ends the host early. What looks like HOST:PORT may be USER:DIGITS then.
        if not at and "@" in url and hosts:
            raise ConfigError("the registry URL has an '@' behind its host: write @ / ? # as %40 %2F %3F %23")
        username, _, password = login.partition(":")
        pairs = parse_qsl(query, keep_blank_values=True)
        options = dict(pairs)
        if len(options) != len(pairs):
            raise ConfigError(f"registry URL {scheme}://{hosts}: an option is given twice")
        return cls(
            scheme=scheme.lower(),
            endpoints=tuple(host for host in hosts.split(",") if host),
            path=unquote(slash + path),
            username=unquote(username) or None,
            password=unquote(password) or None,
            options=MappingProxyType(options),
        )

    @property
    def text(self) -> str:
        """The whole URL with the password, which `parse` turns into an equal object. Not for logs."""
        user, password = quote(self.username or "", safe=""), quote(self.password or "", safe="")
        login = f"{user}{':' if password else ''}{password}@" if user or password else ""
        query = f"?{urlencode(self.options)}" if self.options else ""
        return f"{self.scheme}://{login}{','.join(self.endpoints)}{quote(self.path)}{query}"

    @property
    def identity(self) -> str:
        """The text that tells this registry from others: the URL, and the options that differ from the defaults.

        Options of a plugin may be secret: not for logs.
        """
        options = {name: value for name, value in sorted(self.options.items()) if name not in _ACCESS}
        settings = self.settings.model_dump(mode="json", exclude_defaults=True) if self.settings is not None else {}
        return f"{self}{f'?{urlencode(options)}' if options else ''}{f'#{json.dumps(settings)}' if settings else ''}"

    def without_password(self) -> "RegistryURL":
        """Return this URL without the password, and without the option `password_file`."""
        options = {name: value for name, value in self.options.items() if name != "password_file"}
        return replace(self, password=None, options=MappingProxyType(options))

    def __str__(self) -> str:
        """Return the URL without its password and options."""
        login = f"{self.username}@" if self.username else ""
        return f"{self.scheme}://{login}{','.join(self.endpoints)}{self.path}"
