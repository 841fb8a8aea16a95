"""Parts of transactions on records: comparisons and operations. Pure."""

from discovery.codec import Record, decode
from discovery.registry.etcd.messages import (
    EQUAL,
    GREATER,
    TARGET_CREATE,
    TARGET_LEASE,
    TARGET_MOD,
    Compare,
    DeleteRangeRequest,
    Message,
    PutRequest,
    RangeRequest,
    RequestOp,
)


def absent(name: bytes) -> Message:
    """Return the comparison that is true if there is no key `name`."""
    return Compare(result=EQUAL, target=TARGET_CREATE, key=name, create_revision=0)


def present(name: bytes) -> Message:
    """Return the comparison that is true if there is a key `name`."""
    return Compare(result=GREATER, target=TARGET_CREATE, key=name, create_revision=0)


def unchanged(kv: Message) -> Message:
    """Return the comparison that is true if nobody has written or removed the key since `kv` was read."""
    return Compare(result=EQUAL, target=TARGET_MOD, key=kv.key, mod_revision=kv.mod_revision)


def under_lease(name: bytes, lease: int) -> Message:
    """Return the comparison that is true if the key `name` belongs to the lease with the number `lease`."""
    return Compare(result=EQUAL, target=TARGET_LEASE, key=name, lease=lease)


def read(name: bytes) -> Message:
    """Return the operation that reads the key `name`."""
    return RequestOp(request_range=RangeRequest(key=name))


def write(name: bytes, value: bytes, lease: int) -> Message:
    """Return the operation that writes `value` under the lease with the number `lease`."""
    return RequestOp(request_put=PutRequest(key=name, value=value, lease=lease))


def remove(name: bytes) -> Message:
    """Return the operation that removes the key `name`."""
    return RequestOp(request_delete_range=DeleteRangeRequest(key=name))


def owner_of(key: str, kv: Message) -> str | None:
    """Return the owner that the record `kv` names; None if the record is not valid or names no owner."""
    record = decode(key, kv.value)
    return record.owner if isinstance(record, Record) else None
