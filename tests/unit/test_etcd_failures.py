"""What gRPC and etcd say, in our words: the right error, one line, the member named."""

import grpc
import pytest

from discovery.errors import AccessDeniedError, LeaseLostError, RegistryError, RegistryUnavailableError
from discovery.registry.etcd.failures import (
    CompactedError,
    FutureRevisionError,
    LeaseExistsError,
    LoginNotNeededError,
    MemberUnavailableError,
    TokenExpiredError,
    explain,
)

CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "kind", "words"),
    [
        (CODE.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", CompactedError, "compacted"),
        (CODE.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", FutureRevisionError, ""),
        (CODE.UNAUTHENTICATED, "etcdserver: invalid auth token", TokenExpiredError, "expired"),
        (CODE.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", TokenExpiredError, "expired"),
        (CODE.INVALID_ARGUMENT, "etcdserver: user name is empty", TokenExpiredError, "etcd://USER@HOST:PORT"),
        (CODE.FAILED_PRECONDITION, "etcdserver: authentication is not enabled", LoginNotNeededError, ""),
        (
            CODE.INVALID_ARGUMENT,
            "etcdserver: authentication failed, invalid user ID or password",
            AccessDeniedError,
            "wrong user or password",
        ),
        (CODE.PERMISSION_DENIED, "etcdserver: permission denied", AccessDeniedError, "grant"),
        (None, "rpc error: code = PermissionDenied desc = etcdserver: permission denied", AccessDeniedError, "grant"),
        (CODE.NOT_FOUND, "etcdserver: requested lease not found", LeaseLostError, "expired or was revoked"),
        (CODE.FAILED_PRECONDITION, "etcdserver: lease already exists", LeaseExistsError, ""),
        (CODE.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", RegistryError, "out of space"),
        (CODE.RESOURCE_EXHAUSTED, "etcdserver: too many requests", MemberUnavailableError, "too many requests"),
        (CODE.UNAVAILABLE, "etcdserver: no leader", MemberUnavailableError, "quorum"),
        (None, "etcdserver: no leader", MemberUnavailableError, "quorum"),
        (CODE.UNAVAILABLE, "etcdserver: request timed out", MemberUnavailableError, "no answer in time"),
        (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded", MemberUnavailableError, "no answer in time"),
        (
            CODE.UNAVAILABLE,
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused (111)",
            MemberUnavailableError,
            "is etcd running there?",
        ),
        (CODE.UNIMPLEMENTED, "Received http2 header with status: 404", MemberUnavailableError, "does not speak gRPC"),
        (CODE.INVALID_ARGUMENT, "etcdserver: key is\nnot provided", RegistryError, "key is not provided"),
        (CODE.UNKNOWN, "", MemberUnavailableError, "no reason given"),
    ],
)
def test_each_failure(code: grpc.StatusCode | None, details: str, kind: type[RegistryError], words: str) -> None:
    error = explain("10.0.0.1:2379", code, details)
    assert type(error) is kind
    assert str(error).startswith("etcd 10.0.0.1:2379")
    assert words in str(error)
    assert "\n" not in str(error)


def test_what_another_member_may_do_better_is_an_unavailable_registry() -> None:
    assert issubclass(MemberUnavailableError, RegistryUnavailableError)
