"""Programs in a network namespace of their own."""

import subprocess
import sys

from discovery.testing import cannot_run, require_program, within


def in_a_network_of_its_own(setup: str, code: str) -> str:
    """What `code` prints in a fresh network namespace in which the shell lines of `setup` were run."""
    require_program("unshare", wheel=False)
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode != 0:
        cannot_run("no network namespaces here")
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-ec", f'{setup}\nexec "$0" -c "$1"', sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
        timeout=within(60),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
