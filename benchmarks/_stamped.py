"""Runs `discovery` with a stamp at the beginning of each part of a change, for `parts_of_a_change.py`.

    python _stamped.py FILE ARGUMENTS...

At the end FILE has the stamps as JSON: the number of the part, the thread, and two times in nanoseconds, that of the
machine's monotonic clock and the CPU time of the thread.
"""

import importlib
import inspect
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from parts_of_a_change import PARTS

from discovery.cli import main

_stamps: list[tuple[int, int, int, int]] = []


def stamp_at(number: int, module: str, name: str) -> None:
    """Stamp each call of a function, also where other modules have imported the function by its name."""
    owner: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for each in outer:
        owner = getattr(owner, each)
    function = inspect.getattr_static(owner, last)

    def stamped(*arguments: Any, **named: Any) -> Any:
        _stamps.append((number, threading.get_ident(), time.perf_counter_ns(), time.thread_time_ns()))
        return function(*arguments, **named)

    setattr(owner, last, stamped)
    if not outer:
        for each in list(sys.modules.values()):
            if getattr(each, last, None) is function:
                setattr(each, last, stamped)


if __name__ == "__main__":
    for part_number, part in enumerate(PARTS):
        stamp_at(part_number, part.module, part.function)
    try:
        code = main(sys.argv[2:])
    finally:
        Path(sys.argv[1]).write_text(json.dumps(_stamps))
    sys.exit(code)
