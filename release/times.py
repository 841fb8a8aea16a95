"""The time that the files of a release and of an image state, so that two builds of one commit are equal."""

import os
import subprocess
from pathlib import Path

_WITHOUT_HISTORY = 315532800
"""1980, in seconds: where the times of ZIP begin."""


def commit_time(root: Path) -> int:
    """Return SOURCE_DATE_EPOCH, or else the time of the last commit of `root`, or else 1980, in seconds.

    Raises ValueError if SOURCE_DATE_EPOCH is no number.
    """
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    git = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(git, capture_output=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):  # no git, or no history
        return _WITHOUT_HISTORY
