"""Log lines: to stderr, one line each, as text or as JSON."""

import json
import subprocess
import sys

import pytest

from discovery.testing import within

SCRIPT = """
import logging, sys
import structlog
from discovery.system.logs import configure_logging
configure_logging(*sys.argv[1:])
log = structlog.get_logger()
log.debug("small")
log.info("hello", key="web/b1", reason="two\\nlines \\x1b[31m")
logging.getLogger("library").info("chatter")
logging.getLogger("library").warning("from a %s", "library")
log.error("last")
"""
RAISING = """
import logging
import structlog
from discovery.system.logs import configure_logging
configure_logging()
try:
    raise ValueError("quoted \\x1b[2J\\r")
except ValueError:
    structlog.get_logger().exception("ours")
    logging.getLogger("library").exception("a library's")
"""


def logged(*arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_text_has_no_colours_and_no_second_line_where_there_is_no_terminal() -> None:
    hello, library, last = logged()
    assert "[info] hello key=web/b1" in hello
    assert "two\\nlines" in hello.replace("\\\\", "\\")
    assert "from a library" in library
    assert "[error] last" in last
    assert "\x1b" not in hello + library + last


def test_a_traceback_does_not_drive_the_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", RAISING], capture_output=True, check=True)
    told = done.stderr.decode()
    assert "\x1b" not in told
    assert "\r" not in told
    assert told.count("Traceback (most recent call last):\n  File ") == 2
    assert told.count("\nValueError: quoted \\x1b[2J\\r\n") == 2


def test_json() -> None:
    hello, library, last = map(json.loads, logged("info", "json"))
    assert hello | {"timestamp": ""} == {
        "event": "hello",
        "level": "info",
        "key": "web/b1",
        "reason": "two\nlines \x1b[31m",
        "timestamp": "",
    }
    assert (library["event"], library["logger"], library["level"]) == ("from a library", "library", "warning")
    assert last["level"] == "error"


@pytest.mark.parametrize(("level", "lines"), [("debug", 5), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels(level: str, lines: int) -> None:
    assert len(logged(level)) == lines


def test_a_reader_that_went_away_is_no_reason_to_end() -> None:
    script = SCRIPT + "log.error('x' * 100_000); print('still here')"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdout is not None
    assert process.stdout.read() == "still here\n"
    process.wait()


FLOOD = """
import asyncio, logging, sys
import structlog
from discovery.system.logs import configure_logging
configure_logging(*sys.argv[1:])
log = structlog.get_logger()
for n in range(3000):
    log.warning("record rejected", key=f"web/{n}", reason="bad")
    log.info(f"web -> {n} backends", consumer="one")
    logging.getLogger("asyncio").error("accept of socket %d failed", n)
    log.info("connection", client=n, every=True)
log.warning("something else")
"""


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_flood_is_bounded_and_said_to_be(format: str) -> None:  # noqa: A002 - as the option
    """Point 6."""
    done = subprocess.run(
        [sys.executable, "-c", FLOOD, "info", format], capture_output=True, text=True, check=True, timeout=within(60)
    )
    lines = done.stderr.splitlines()
    counts = {
        text: sum(text in line for line in lines)
        for text in ("record rejected", "backends", "accept of socket", "connection", "something else")
    }
    assert counts["record rejected"] < 60
    assert counts["backends"] < 220
    assert counts["accept of socket"] < 60
    assert counts["connection"] == 3000
    assert counts["something else"] == 1
    assert sum("left out for a while" in line for line in lines) >= 3
    assert "every" not in done.stderr


def test_at_level_debug_nothing_is_left_out() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FLOOD, "debug"], capture_output=True, text=True, check=True, timeout=within(60)
    )
    assert done.stderr.count("record rejected") == 3000
    assert "every" not in done.stderr
