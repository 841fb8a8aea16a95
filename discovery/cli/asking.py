"""Asks the admin endpoint of a daemon for a document.

Over plain HTTP the token is proven and not sent: anybody on this machine can listen where no daemon does. What answers
has to prove it, too.
"""

import http.client
import json
import ssl
from collections.abc import Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from discovery.admin import credentials
from discovery.admin.access import AccessSettings, load_authorities, load_chain, read_token
from discovery.cli.options import AdminFiles, settings_of
from discovery.daemon.configfile import file_in_use
from discovery.errors import ConfigError, DiscoveryError, describe
from discovery.model import join_host_port

_THIS_MACHINE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a daemon listens, not we
ANSWER_SECONDS = 10.0
"""Seconds for an answer: the daemon makes large documents one at a time."""
_MOST_BYTES = 256 * 1024 * 1024
"""Bytes of an answer: a snapshot of 1,000,000 backends has fewer."""
_WAY_IN = (
    "name the file of its token with --admin-token-file, DISCOVERY_ADMIN_TOKEN_FILE or admin_token_file, or a"
    " certificate that it takes with --admin-cert and --admin-key"
)


class NoDaemonError(DiscoveryError):
    """No daemon answers at the admin endpoint; the message says where and why."""


class RefusedError(DiscoveryError):
    """The daemon answers with an error; `status` is the HTTP status, the message what it says."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the status."""
        super().__init__(message)
        self.status = status


class AdminAddress(NamedTuple):
    """Where a daemon is asked, and by what the daemon knows us."""

    host: str
    port: int
    token: str | None = None
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        """Return HOST:PORT."""
        return join_host_port(self.host, self.port)


def admin_address(admin: str | None, config: Path | None, files: AdminFiles) -> AdminAddress:
    """Return where to ask, and the credentials: those given, or those of the configuration file, or the default.

    Raises ConfigError if the address is not valid, or a file cannot be used, and NoDaemonError if the endpoint is off.
    """
    settings = settings_of(config, admin=admin, admin_token_file=files.token)
    if settings.admin is None:
        where = f"in {file_in_use(config)}" if admin is None else "by --admin or DISCOVERY_ADMIN"
        raise NoDaemonError(f"the admin endpoint is off {where}; name one with --admin HOST:PORT")
    host, port = settings.admin
    file = settings.admin_access.token_file
    token = read_token("admin_token_file", file) if file is not None else None
    return AdminAddress(_THIS_MACHINE.get(host, host), port, token, _tls(files, settings.admin_access))


def _tls(files: AdminFiles, daemon: AccessSettings) -> ssl.SSLContext | None:
    """Return what speaks TLS with the daemon; None for plain HTTP. `daemon` is what the configuration file says.

    Without `files.ca` the daemon has to have the very certificate of the configuration file, for any name.
    Raises ConfigError.
    """
    if files.ca is None and files.cert is None and files.key is None and daemon.cert is None:
        return None
    if (files.cert is None) != (files.key is None):
        raise ConfigError("--admin-cert and --admin-key go together: name both files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.ca is not None:
        load_authorities(context, "--admin-ca", files.ca)
    elif daemon.cert is not None:
        _trust_alone(context, daemon.cert)
    else:
        context.load_default_certs()
    if files.cert is not None and files.key is not None:
        load_chain(context, "--admin-cert", files.cert, "--admin-key", files.key)
    return context


def _trust_alone(context: ssl.SSLContext, path: Path) -> None:
    """Have `context` trust the first certificate in the file, and no other. Raises ConfigError."""
    try:
        first, end, _ = path.read_text().partition("-----END CERTIFICATE-----")
        context.load_verify_locations(cadata=first[first.find("-----BEGIN") :] + end)
    except (OSError, ValueError) as error:
        raise ConfigError(f"admin_cert: {path} cannot be used: {describe(error)}") from None
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def ask(
    address: AdminAddress, path: str, query: Mapping[str, Any] | None = None, timeout: float = ANSWER_SECONDS
) -> dict[str, Any]:
    """Return the JSON object that the daemon at `address` answers; a value None of `query` is left out.

    Raises NoDaemonError if no daemon answers, RefusedError for an error.
    """
    given = {name: value for name, value in (query or {}).items() if value is not None}
    target = f"{path}?{urlencode(given, doseq=True)}" if given else path
    status, body = _answer(address, target, timeout)
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if status >= 400:
        told = document.get("error") if isinstance(document, dict) else None
        way_out = "the daemon is of an earlier version" if status == 404 and told is None else f"status {status}"
        if status == 401:
            told = f"it does not know who asks: {_WAY_IN}" if address.token is None else f"{told}; {_WAY_IN}"
        raise RefusedError(status, f"{address}: {told or way_out}")
    if not isinstance(document, dict):
        raise NoDaemonError(f"what answers at {address} is no daemon; name its admin endpoint with --admin")
    return document


def _answer(address: AdminAddress, target: str, timeout: float) -> tuple[int, bytes]:
    """Return the status and the body. A challenge is answered where there is a token. Raises NoDaemonError."""
    try:
        if address.tls is not None:  # it has shown its certificate before it learns the token
            bearer = {} if address.token is None else {"Authorization": f"Bearer {address.token}"}
            answer, body = _get(address, target, timeout, bearer)
            return answer.status, body
        answer, body = _get(address, target, timeout)
        nonce = credentials.nonce_of(", ".join(answer.headers.get_all("WWW-Authenticate", ())))
        if answer.status < 400 and address.token is not None:
            raise NoDaemonError(
                f"what answers at {address} does not ask for the token; its answer is not to be believed: reload the"
                " daemon if admin_token_file is new to it"
            )
        if answer.status != 401 or address.token is None or nonce is None:
            return answer.status, body
        proof = credentials.prove(address.token, nonce, "GET", target, str(address))
        answer, body = _get(address, target, timeout, {"Authorization": proof.header})
    except ssl.SSLCertVerificationError as error:
        raise NoDaemonError(
            f"what answers at {address} has no certificate that we trust ({error.verify_message}); name its authorities"
            " with --admin-ca, or reload the daemon if its certificate has been renewed"
        ) from None
    except ssl.SSLError as error:
        raise NoDaemonError(
            f"no TLS with {address} ({error.reason or describe(error)}): a daemon without admin_cert speaks plain HTTP,"
            " and one with admin_client_ca takes certificates of its authorities alone (--admin-cert, --admin-key)"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        hint = ""
        if isinstance(error, ConnectionResetError | BrokenPipeError):  # http.client.RemoteDisconnected among them
            way_out = (
                "its authorities with --admin-ca"
                if address.tls is None
                else "a certificate that it takes with --admin-cert"
            )
            hint = f"; if it speaks TLS, name {way_out}"
        raise NoDaemonError(
            f"no daemon answers at {address} ({describe(error)}); start one, or name its admin endpoint with"
            f" --admin{hint}"
        ) from None
    if answer.status not in (401, 429):
        header = answer.headers.get("Authentication-Info", "")
        if not credentials.answer_is_proven(address.token, proof, answer.status, body, header):
            raise NoDaemonError(f"what answers at {address} does not know the token; its answer is not to be believed")
    return answer.status, body


def _get(
    address: AdminAddress, target: str, timeout: float, headers: Mapping[str, str] | None = None
) -> tuple[HTTPResponse, bytes]:
    connection = (
        http.client.HTTPConnection(address.host, address.port, timeout=timeout)
        if address.tls is None
        else http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=address.tls)
    )
    try:
        # As `join_host_port` writes it: http.client would leave out the port 80.
        headers = {"Accept": "application/json", "Host": str(address), **(headers or {})}
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read(_MOST_BYTES)
    finally:
        connection.close()
