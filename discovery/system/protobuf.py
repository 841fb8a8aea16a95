"""Protocol Buffers without generated code: messages described in text, each schema in a descriptor pool of its own.

What another library of the process has in the global pool, and which files of which version are installed, does not
matter then. The messages are proto2, which serializes a zero that was set.
"""

import re
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError

__all__ = ["DecodeError", "described"]

_MESSAGE = re.compile(r"message (\w+) \{([^}]*)\}")
_FIELD = re.compile(r"(repeated )?(\w+) (\w+) = (\d+);")
_OPTIONAL, _REPEATED = 1, 3  # `Label` of FieldDescriptorProto
_TYPE_MESSAGE = 11  # `Type` of FieldDescriptorProto, as the numbers below
_TYPES = {
    "double": 1,
    "int64": 3,
    "uint64": 4,
    "int32": 5,
    "fixed64": 6,
    "bool": 8,
    "string": 9,
    "bytes": 12,
    "uint32": 13,
}


def described(package: str, schema: str) -> dict[str, Any]:
    """Return the classes of the messages of `schema`, by name.

    A message is written `message Name { int64 field = 1; repeated Other others = 2; }`, as in a .proto file, without
    nested messages, enums (an int32 has the same bytes) and `oneof`s. The name of the package is free.
    """
    # A FileDescriptorProto (google/protobuf/descriptor.proto), serialized by hand: descriptor_pb2 takes 1 MiB.
    file = _part(1, f"{package.replace('.', '/')}.proto") + _part(2, package)
    messages = _MESSAGE.findall(schema)
    for name, body in messages:
        fields = (_part(2, _described_field(package, *field)) for field in _FIELD.findall(body))
        file += _part(4, _part(1, name) + b"".join(fields))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name, _ in messages
    }


def _described_field(package: str, repeated: str, kind: str, name: str, number: str) -> bytes:
    """Return a serialized FieldDescriptorProto."""
    label = _REPEATED if repeated else _OPTIONAL
    described_so_far = _part(1, name) + _part(3, int(number)) + _part(4, label)
    if kind in _TYPES:
        return described_so_far + _part(5, _TYPES[kind])
    return described_so_far + _part(5, _TYPE_MESSAGE) + _part(6, f".{package}.{kind}")


def _part(number: int, value: str | bytes | int) -> bytes:
    """Return the serialized field `number` of a message, with the value `value`."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)
