"""Options of http services that change requests and answers: authentication, redirects to https and headers."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, model_validator

from discovery import PluginConfig
from discovery.fields import Duration, Port, format_value
from discovery_haproxy.options.values import AbsolutePath, Address, CookieDomain, CookieName, HeaderName, Realm

HTTPS_PORT = 443
"""The port of a https address that names none."""
_YEAR = 365 * 86400
"""Seconds of a year, the least `max-age` of a site on the preload lists of browsers (hstspreload.org)."""
_COOKIE_SECONDS = 400 * 86400
"""Seconds for which browsers keep a cookie at most (RFC 6265bis)."""
_HEADER_VALUE = re.compile(r"[!-~]([ -~]{0,3998}[!-~])?")
_FRAMING = frozenset({"connection", "content-length", "set-cookie", "transfer-encoding"})
"""Headers that delimit an answer, or of which an answer has several."""


class BasicAuthConfig(PluginConfig):
    """HTTP basic authentication (RFC 7617). HAProxy reads the passwords, so that no configuration contains them."""

    users_file: AbsolutePath
    """Lines `NAME:PASSWORD`; every line is a user. HAProxy reads the file when HAProxy loads the configuration."""
    realm: Realm = "restricted"
    """Name of the protected area, which browsers show."""


class HstsConfig(PluginConfig):
    """HTTP Strict Transport Security (RFC 6797): browsers use https alone, for `max_age`."""

    max_age: Annotated[float, Duration(0, 10 * _YEAR, zero="forget")] = _YEAR
    include_subdomains: bool = False
    preload: bool = False
    """Consent to the lists of sites in browsers."""

    @model_validator(mode="after")
    def _check_preload(self) -> "HstsConfig":
        if self.preload and not (self.include_subdomains and self.max_age >= _YEAR):
            raise ValueError("'preload' needs include_subdomains = true and a 'max_age' of at least 365d")
        return self

    @property
    def header(self) -> str:
        """Value of the header `Strict-Transport-Security`."""
        words = [f"max-age={int(self.max_age)}"]
        words += ["includeSubDomains"] if self.include_subdomains else []
        words += ["preload"] if self.preload else []
        return "; ".join(words)


class CookieConfig(PluginConfig):
    """A cookie that HAProxy sets, so that the client stays with the same backend."""

    name: CookieName = "SERVERID"
    secure: bool = False
    """True if browsers send the cookie over TLS only."""
    same_site: Literal["strict", "lax", "none"] | None = None
    """Whether browsers send the cookie with requests from other sites. Default: as the browser decides."""
    domain: CookieDomain | None = None
    """Domain whose hosts all get the cookie. Default: the host that was asked."""
    max_age: Annotated[float | None, Duration(1, _COOKIE_SECONDS)] = None
    """Time after which browsers forget the cookie. Default: when the browser ends."""

    @model_validator(mode="after")
    def _check_secure(self) -> "CookieConfig":
        if self.same_site == "none" and not self.secure:
            raise ValueError('same_site = "none" needs secure = true: browsers refuse the cookie otherwise')
        return self

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes that HAProxy has no keyword for."""
        same_site = (f"SameSite={self.same_site.capitalize()}",) if self.same_site else ()
        return (*same_site, *((f"Max-Age={int(self.max_age)}",) if self.max_age else ()))


class StatsConfig(PluginConfig):
    """The statistics page, with Prometheus metrics at /metrics."""

    address: Address
    users_file: AbsolutePath | None = None
    """Lines `NAME:PASSWORD` of the users who may see the page and the metrics. Default: everyone."""


def _cookie(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _basic_auth(value: object) -> object:
    return {"users_file": value} if isinstance(value, str) else value


def _stats(value: object) -> object:
    return value if value is None or isinstance(value, dict | StatsConfig) else {"address": value}


def _redirect_port(value: object) -> object:
    return HTTPS_PORT if value is True else None if value is False else value


def _hsts(value: object) -> object:
    if isinstance(value, bool):
        return {} if value else None
    return value if value is None or isinstance(value, dict | HstsConfig) else {"max_age": value}


def _header_value(value: object) -> object:
    if value is True or not isinstance(value, bool | str):
        raise ValueError(f"{format_value(value)} is not the value of a header: write text, or false to remove it")
    if isinstance(value, str) and not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f"{value!r} is not a header's value in ASCII, without spaces around")
    return value


def _response_headers(headers: dict[str, object]) -> dict[str, object]:
    for name in headers:
        if name.lower() in _FRAMING:
            raise ValueError(f"{name!r} cannot be set: HAProxy needs the header as it is")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("a header is named twice")
    return headers


BasicAuth = Annotated[BasicAuthConfig, BeforeValidator(_basic_auth, json_schema_input_type=str | BasicAuthConfig)]
Stats = Annotated[StatsConfig | None, BeforeValidator(_stats, json_schema_input_type=str | StatsConfig | None)]
Cookie = Annotated[CookieConfig | None, BeforeValidator(_cookie, json_schema_input_type=str | CookieConfig | None)]
HttpsPort = Annotated[
    Port | None,
    BeforeValidator(_redirect_port, json_schema_input_type=bool | Port | None),
]
"""The port of the https address to which plain requests are redirected."""
Hsts = Annotated[
    HstsConfig | None, BeforeValidator(_hsts, json_schema_input_type=bool | str | float | HstsConfig | None)
]
ResponseHeaders = Annotated[
    dict[HeaderName, Annotated[str | Literal[False], BeforeValidator(_header_value)]],
    AfterValidator(_response_headers),
]
"""Headers to set in answers; `false` removes a header."""
