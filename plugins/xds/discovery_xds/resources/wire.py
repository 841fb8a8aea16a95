"""The wire form of a message within a message, for parts that are serialized already."""

_LENGTH_DELIMITED = 2
"""Wire type of messages, texts and bytes: see the chapter "Encoding" of the documentation of Protocol Buffers."""


def embedded(field: int, *parts: bytes) -> bytes:
    """Return the message that the concatenated `parts` are, as the field with the number `field`, at most 15."""
    return b"".join((bytes((field << 3 | _LENGTH_DELIMITED,)), _varint(sum(map(len, parts))), *parts))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
