"""Requests for records in the directory of a file registry: `.takeover/<service>/<id>`. See `registry.requests`.

The owner that asks updates the modification time of its request; a request that is not updated has ended. Call these
functions only inside `held`. Each raises OSError.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from discovery.registry.file.beneath import UnsuitableError, open_beneath, open_regular
from discovery.registry.file.directory import clock
from discovery.registry.requests import PLACE, Request
from discovery.system.files import write_within

_DIRECTORY = PLACE.rstrip("/")
_FRESH_SECONDS = 5.0
"""Seconds after its last update at which a request has ended: its owner updates the request many times a second."""
_MOST_BYTES = 8193
"""Bytes of a file that are read: more than a request may have."""


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request as it is stored; `fresh` is false if the request has ended."""

    request: Request
    fresh: bool


def any_request(root: str | os.PathLike[str]) -> bool:
    """Return True if the registry at the path `root` may have requests. Needs no lock."""
    return os.path.isdir(os.path.join(root, _DIRECTORY))  # noqa: PTH112, PTH118 - called several times a second


def keys(root: int) -> list[str]:
    """Return the keys for which there are requests."""
    found: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError, UnsuitableError), _opened(root, _DIRECTORY) as place:
        for service in os.listdir(place):  # noqa: PTH208 - of a descriptor
            with suppress(FileNotFoundError, NotADirectoryError, UnsuitableError), _opened(place, service) as inner:
                names = os.listdir(inner)  # noqa: PTH208 - of a descriptor
                found += (f"{service}/{name}" for name in names if not name.startswith("."))
    return found


def read(root: int, key: str) -> StoredRequest | None:
    """Return the request for `key`, None without a valid request."""
    service, _, name = key.partition("/")
    with suppress(FileNotFoundError, NotADirectoryError, UnsuitableError):
        with _opened(root, f"{_DIRECTORY}/{service}") as place:
            mode = os.stat(name, dir_fd=place, follow_symlinks=False).st_mode
            with os.fdopen(open_regular(place, name, mode), "rb") as file:
                request = Request.decode(file.read(_MOST_BYTES))
                modified = os.fstat(file.fileno()).st_mtime
        if request is not None:
            return StoredRequest(request, clock(root) - modified <= _FRESH_SECONDS)
    return None


def write(root: int, key: str, request: Request) -> None:
    """Store a request for `key` in place of another."""
    service, _, name = key.partition("/")
    for place in (_DIRECTORY, f"{_DIRECTORY}/{service}"):
        with suppress(FileExistsError):
            os.mkdir(place, dir_fd=root)
    with _opened(root, f"{_DIRECTORY}/{service}") as directory:
        write_within(directory, name, request.encoded, durable=False)


def remove(root: int, key: str) -> None:
    """Remove the request for `key`, and the directories that are empty then."""
    service, _, name = key.partition("/")
    with suppress(FileNotFoundError, NotADirectoryError, UnsuitableError):
        with _opened(root, f"{_DIRECTORY}/{service}") as directory, suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        with suppress(OSError):  # another request is there
            os.rmdir(f"{_DIRECTORY}/{service}", dir_fd=root)
            os.rmdir(_DIRECTORY, dir_fd=root)


@contextmanager
def _opened(root: int, path: str) -> Iterator[int]:
    directory = open_beneath(root, path)
    try:
        yield directory
    finally:
        os.close(directory)
