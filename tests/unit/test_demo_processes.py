"""The end of the demo's and the tutorial's processes, orphaned descendants included."""

import subprocess
import sys

from discovery.testing import cannot_run, require_program, within

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


def test_the_first_process_of_a_container_is_not_awaited_before_the_others() -> None:
    for program in ("unshare", "nsenter"):
        require_program(program, wheel=False)
    if subprocess.run(["unshare", "-rpf", "true"], capture_output=True, check=False).returncode:
        cannot_run("no process namespaces here")
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=within(30), check=False)
    assert done.stdout == "ended\n", done.stderr
