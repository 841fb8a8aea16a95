"""Searches of the machine without a free descriptor: a search that fails must not say that nothing is there."""

import subprocess
import sys
from pathlib import Path

import pytest

from discovery.system.rundir import lock

SEARCH = """
import errno, os, resource, socket, sys
from pathlib import Path
from discovery.daemon import stopping
from discovery.registry.file import directory
from discovery.system import listening, owners, rundir

place = Path(sys.argv[2])
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
inode = str(os.fstat(server.fileno()).st_ino)
opened = os.open(place, os.O_RDONLY)
(place / directory.REVISION_FILE).write_bytes(b"%020d %032x\\n" % (7, 0))
searches = {
    "holder": lambda: rundir.holder(place / "lock"),
    "tcp": lambda: listening.tcp_sockets_listening_at("127.0.0.1", port),
    "processes": lambda: listening.processes_with_sockets([inode]),
    "instances": lambda: list(stopping._instances_of_processes(place)),
    "machine": owners.machine_id.__wrapped__,
    "clock": lambda: directory.clock(opened),
    "revision": lambda: directory.stored_revision(opened),
}
search = searches[sys.argv[1]]
expected = search()
for left in (0, 1):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    for _ in range(left):
        os.close(held.pop())
    try:
        found = search()
    except Exception as error:
        found = error
    for each in held:
        os.close(each)
    if isinstance(found, float):
        found = expected
    print("found" if found == expected and expected else repr(found))
"""


@pytest.mark.parametrize("search", ["holder", "tcp", "processes", "instances", "machine", "clock", "revision"])
def test_a_shortage_of_descriptors_is_not_an_empty_answer(search: str, tmp_path: Path) -> None:
    (tmp_path / "edge").mkdir()
    with lock(tmp_path / "lock", "a test"):
        done = subprocess.run(
            [sys.executable, "-c", SEARCH, search, str(tmp_path), str(tmp_path / "edge" / "x")],
            check=True,
            capture_output=True,
            text=True,
        )
    without, with_one = done.stdout.splitlines()
    assert "too many open files" in without.lower()
    assert with_one == "found" or "too many open files" in with_one.lower()
