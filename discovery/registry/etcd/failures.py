"""Converts errors of gRPC and etcd to `discovery.errors`: a single line that names the member and the remedy."""

import re
from collections.abc import Iterator

import grpc

from discovery.errors import AccessDeniedError, LeaseLostError, RegistryError, RegistryUnavailableError
from discovery.registry.etcd.messages import Message
from discovery.registry.url import PASSWORD_VARIABLE

_MEMBER_FAILURES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNIMPLEMENTED,  # the server is not etcd
        grpc.StatusCode.UNKNOWN,
    }
)
"""Status codes of a failure of this member: another member may answer."""
# Parts of the error texts of gRPC and etcd in lower case, with the explanation for a person. The first match counts.
_MEANINGS = (
    ("no leader", "it has no leader: the cluster has lost its quorum, or this member is cut off from it"),
    ("not capable", "it is still starting"),
    ("connection refused", "connection refused: is etcd running there?"),
    ("http/2", "it does not speak gRPC: is that the client port of an etcd?"),
    ("http2 header", "it does not speak gRPC: is that the client port of an etcd?"),
    ("certificate has expired", "its certificate has expired: replace it there"),
    ("certificate is not yet valid", "its certificate is not valid yet: is the time right, here and there?"),
    ("certificate_verify_failed", "its certificate is not trusted: give its authority's by ?ca=FILE"),
    ("certificate verify failed", "its certificate is not trusted: give its authority's by ?ca=FILE"),
    ("hostname verification", "its certificate is for another name: see ?server_name=NAME"),
    ("peer name", "its certificate is for another name: see ?server_name=NAME"),
    ("certificate_required", "it requires a client certificate: give ?cert=FILE&key=FILE"),
    ("bad_certificate", "it refuses the client certificate: see ?cert=FILE&key=FILE"),
    ("unknown_ca", "it does not trust the client certificate: see ?cert=FILE&key=FILE"),
    ("unwrap failed", "it refuses the client certificate, or requires one: see ?cert=FILE&key=FILE"),
    ("wrong_version_number", "it does not speak TLS: write etcd:// for plain text"),
    ("handshake read failed", "no TLS connection can be made: for plain text write etcd://"),
    ("ssl", "no TLS connection can be made: see ?ca=FILE, ?cert=FILE and ?key=FILE"),
    ("timed out", "no answer in time"),
    ("timeout", "no answer in time"),
    ("deadline exceeded", "no answer in time"),
    ("socket closed", "it closed the connection"),
    ("connection reset", "it closed the connection"),
    ("unreachable", "the network is unreachable"),
    ("no route", "there is no route to it"),
)
_ALARM = re.compile(r"alarm:(\w+)")
_NO_SPACE = "out of space: compact and defragment it, then disarm its alarm"
_ALARMS = {
    "NOSPACE": f"alarm NOSPACE: no record can be written, present records are kept; etcd is {_NO_SPACE}",
    "CORRUPT": "alarm CORRUPT: members differ; restore the cluster from a backup, or replace the member that is wrong",
}


class MemberUnavailableError(RegistryUnavailableError):
    """A member does not answer or cannot serve. Another member may."""


class TokenExpiredError(AccessDeniedError):
    """The member does not know the client's token, or requires a token."""


class CompactedError(RegistryError):
    """The requested revision is compacted."""


class FutureRevisionError(RegistryError):
    """The requested revision has not happened in this cluster, so the cluster has another history."""


class LeaseExistsError(RegistryError):
    """The lease is already granted."""


class LoginNotNeededError(RegistryError):
    """Authentication is disabled in the cluster."""


def failure(endpoint: str, error: grpc.aio.AioRpcError) -> RegistryError:
    """Return the registry error for the gRPC error of a call to the member at `endpoint`."""
    return explain(endpoint, error.code(), error.details() or "")


def explain(endpoint: str, code: grpc.StatusCode | None, details: str) -> RegistryError:
    """Return the registry error for a status code and an error text of the member at `endpoint`.

    `code` is None for a watch that etcd cancels: etcd gives a text without a code.
    """
    text = details.lower()
    where = f"etcd {endpoint}"
    if "has been compacted" in text:
        return CompactedError(f"{where}: the revision is compacted")
    if "future revision" in text:
        return FutureRevisionError(f"{where}: the revision has not happened")
    if code is grpc.StatusCode.UNAUTHENTICATED or "invalid auth token" in text or "auth store is old" in text:
        return TokenExpiredError(f"{where}: the login has expired")
    if "user name is empty" in text:
        return TokenExpiredError(
            f"{where} asks for a user and a password: write etcd://USER@HOST:PORT and set {PASSWORD_VARIABLE}"
        )
    if "authentication is not enabled" in text:
        return LoginNotNeededError(f"{where}: authentication is not enabled")
    if "authentication failed" in text or "user name not found" in text:
        return AccessDeniedError(f"{where}: wrong user or password: correct them in the registry URL")
    if code is grpc.StatusCode.PERMISSION_DENIED or "permission denied" in text:
        return AccessDeniedError(f"{where}: permission denied: grant the user's role the prefix")
    if "lease not found" in text:
        return LeaseLostError(f"{where}: the lease has expired or was revoked")
    if "lease already exists" in text:
        return LeaseExistsError(f"{where}: the lease is already granted")
    if "space exceeded" in text:
        return RegistryError(f"{where} is {_NO_SPACE}")
    if code is None or code in _MEMBER_FAILURES or "too many requests" in text:
        return MemberUnavailableError(f"{where}: {_meaning(details)}")
    return RegistryError(f"{where} refused: {_one_line(details)}")


def reason(endpoint: str, error: RegistryError) -> str:
    """Return the reason in `error`, without the name of the member at `endpoint`."""
    return str(error).removeprefix(f"etcd {endpoint}").removeprefix(":").strip()


def alarms_of(status: Message) -> Iterator[str]:
    """Yield a line for each alarm of the cluster in `status`, a member's StatusResponse."""
    raised = {alarm for text in status.errors for alarm in _ALARM.findall(text)}
    yield from (_ALARMS.get(alarm, f"alarm {alarm}") for alarm in sorted(raised))


def _meaning(details: str) -> str:
    text = details.lower()
    return next((meaning for sign, meaning in _MEANINGS if sign in text), _one_line(details))


def _one_line(details: str) -> str:
    return " ".join(details.removeprefix("etcdserver: ").split())[:200] or "no reason given"
