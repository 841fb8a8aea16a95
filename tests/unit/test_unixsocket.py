"""Unix sockets: long paths, and the process at the other end."""

import os
import socket
from pathlib import Path

import pytest
from descriptors import open_descriptors

from discovery.system.unixsocket import (
    SOCKET_PATH_BYTES,
    is_too_long_for_a_socket,
    peer_credentials,
    with_short_path,
)


def test_the_limit_of_a_path_is_the_kernels(tmp_path: Path) -> None:
    for surplus in (0, 1):
        name = "s" * (SOCKET_PATH_BYTES + surplus - len(f"{tmp_path}/"))
        path = tmp_path / name
        assert is_too_long_for_a_socket(path) == bool(surplus)
        assert is_too_long_for_a_socket(path.with_name(name[1:]), suffix=1) == bool(surplus)
        with socket.socket(socket.AF_UNIX) as sock:
            if surplus:
                with pytest.raises(OSError, match="too long"):
                    sock.bind(str(path))
            else:
                sock.bind(str(path))


def test_a_socket_has_a_longer_path_and_tells_who_is_at_its_other_end(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * SOCKET_PATH_BYTES)
    directory.mkdir()
    descriptors = open_descriptors()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        with_short_path(directory / "s", server.bind)
        server.listen()
        with_short_path(directory / "s", client.connect)
        assert peer_credentials(client) == (os.getpid(), os.geteuid(), os.getegid())
        (directory / "t").touch()
        with pytest.raises(ConnectionRefusedError):
            with_short_path(directory / "t", client.connect)
    assert open_descriptors() == descriptors
