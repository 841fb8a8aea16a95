"""Searches of the machine without a free descriptor: a search that fails must not say that nothing is there."""

from pathlib import Path

import pytest
from sampling import sampled
from scarcity import run_scarce

from discovery.system.rundir import lock

SEARCH = """
import os, socket, sys
from pathlib import Path
from scarcity import descriptors_left
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
    with descriptors_left(left):
        try:
            found = search()
        except Exception as error:
            found = error
    if isinstance(found, float):
        found = expected
    print("found" if found == expected and expected else repr(found))
"""


@pytest.mark.costly
@pytest.mark.parametrize(
    "search", sampled(["holder", "tcp", "processes", "instances", "machine", "clock", "revision"], 2)
)
def test_a_shortage_of_descriptors_is_not_an_empty_answer(search: str, tmp_path: Path) -> None:
    (tmp_path / "edge").mkdir()
    with lock(tmp_path / "lock", "a test"):
        without, with_one = run_scarce(SEARCH, search, tmp_path, tmp_path / "edge" / "x").splitlines()
    assert "too many open files" in without.lower()
    assert with_one == "found" or "too many open files" in with_one.lower()
