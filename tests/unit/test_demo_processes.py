"""The end of the demo's and the tutorial's processes, orphaned descendants included."""

import subprocess
import sys
from pathlib import Path

from discovery.testing import cannot_run, eventually_sync, require_program, within

# A container's first process ends after all others, one of which was started from outside, as health checks are.
CODE = """
import subprocess, time
from pathlib import Path
from discovery.demo.processes import Stage, _own_children

with Stage():
    subprocess.Popen(["unshare", "-rpf", "sleep", "600"])
    def inner():
        return [child for pid in _own_children() for each in Path(f"/proc/{pid}/task").glob("*/children")
                for child in each.read_text().split()]
    while not inner() or Path(f"/proc/{inner()[0]}/comm").read_text() != "sleep\\n":
        time.sleep(0.01)
    first = inner()[0]
    subprocess.Popen(["nsenter", "--target", first, "--user", "--preserve-credentials", "--pid", "sleep", "600"])
    while len(inner()) < 2:
        time.sleep(0.01)
print("ended")
"""


KILLED = """
import sys, time
from pathlib import Path
from discovery.demo.processes import Stage

with Stage(Path(sys.argv[1])) as stage:
    print(stage.start_python("child", "-c", "import time; time.sleep(600)").process.pid, flush=True)
    time.sleep(600)
"""


NEXT = """
import os, sys
from pathlib import Path
from discovery.demo.processes import Stage

with Stage(Path(sys.argv[1])) as stage:
    print(stage.directory.name)
    print(*os.listdir(sys.argv[1]))
"""


def test_the_processes_end_with_a_demo_that_is_killed_and_the_next_demo_removes_its_directory(tmp_path: Path) -> None:
    def next_demo() -> set[str]:
        """Run a demo, and return the directories that it finds beside its own."""
        output = subprocess.check_output([sys.executable, "-c", NEXT, tmp_path], text=True, timeout=within(30))
        own, *found = output.split()
        return {*found} - {own}

    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        pid = int(demo.stdout.readline())
        [place] = tmp_path.iterdir()
        assert next_demo() == {place.name}  # it is in use
        demo.kill()
    eventually_sync(lambda: not command(pid), "the process to end")
    assert [*tmp_path.iterdir()] == [place]
    assert next_demo() == set()
    assert [*tmp_path.iterdir()] == []


def command(pid: int) -> bytes:
    """Return the command line of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_the_first_process_of_a_container_is_not_awaited_before_the_others() -> None:
    for program in ("unshare", "nsenter"):
        require_program(program, wheel=False)
    if subprocess.run(["unshare", "-rpf", "true"], capture_output=True, check=False).returncode:
        cannot_run("no process namespaces here")
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=within(30), check=False)
    assert done.stdout == "ended\n", done.stderr
