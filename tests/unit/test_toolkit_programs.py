"""The tools for a consumer that runs a program on files: commands, a supervised program, replaced files, a proof."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from discovery import ApplyError, Context, Update, diff
from discovery.testing import backend, eventually, snapshot, within
from discovery.toolkit import (
    FileContents,
    FileTransaction,
    ProcessHandle,
    Program,
    Stopping,
    check_command,
    end_left_program,
    recover_files,
    run_command,
    wait_for_proof,
)

LOG = structlog.get_logger()
PROGRAM = """
import signal, sys, time
path, shown = sys.argv[1:3]
def read(*_):
    text = open(path).read()
    if text == "stuck":
        return
    if text == "deadly":
        sys.exit("it is deadly")
    open(shown + ".new", "w").write(text)
    import os
    os.replace(shown + ".new", shown)
    print("read", text, flush=True)
signal.signal(signal.SIGHUP, read)
read()
while True:
    time.sleep(60)
"""
"""Reads a file at its start and at SIGHUP, and shows in another file what it has read."""


async def test_a_command_is_run_to_its_end() -> None:
    output = await run_command(["sh", "-c", "echo out; echo err >&2; exit 3"], within(10))
    assert output == (3, "out\nerr\n")
    assert output.describe("sh") == "sh: exit 3: out / err"
    assert (await run_command(["sh", "-c", "kill -9 $$"], within(10))).describe("sh") == "sh: killed by SIGKILL"
    shown = await run_command(["sh", "-c", "echo $MORE$DISCOVERY_PASSWORD"], within(10), environment={"MORE": "x"})
    assert shown == (0, "x\n")
    await check_command(["true"], within(10), "no")
    with pytest.raises(ApplyError, match="the configuration is refused: sh: exit 1: line 3"):
        await check_command(["sh", "-c", "echo line 3; exit 1"], within(10), "the configuration is refused")
    with pytest.raises(ApplyError, match="/no/such cannot be run: No such file"):
        await run_command(["/no/such"], within(10))


async def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child"
    with pytest.raises(ApplyError, match=r"sh did not end within 0\.\d+ s"):
        await run_command(["sh", "-c", f"sleep 60 & echo $! > {child}; wait"], 0.5)
    if child.exists() and (pid := child.read_text().strip()):  # on a busy machine the shell may not have begun
        await eventually(lambda: not _runs(int(pid)))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


async def test_a_proof_is_asked_for_until_it_is_given() -> None:
    missing: list[str | None] = ["nothing", "half", None]
    await wait_for_proof(lambda: missing.pop(0), within(10), "not shown")
    assert missing == []

    async def never() -> str:
        return "another state"

    with pytest.raises(ApplyError, match=r"not shown within 0\.05 s: another state"):
        await wait_for_proof(never, 0.05, "not shown")


class Balancer:
    """A program with a file, as an author would have it in a consumer."""

    def __init__(self, directory: Path) -> None:
        self.run_dir = directory / "run"
        self.run_dir.mkdir(exist_ok=True)
        self.state_dir = directory / "state"
        self.file, self.shown = directory / "file", directory / "shown"
        self.asked: list[float] = []
        command = [sys.executable, "-S", "-c", PROGRAM, str(self.file), str(self.shown)]
        ask = self._ask
        self.program = Program(command, self.run_dir, LOG, Stopping(signal.SIGTERM, within(5)), ask)

    def _ask(self) -> None:
        self.asked.append(time.monotonic())

    async def apply(self, text: str) -> None:
        transaction = FileTransaction({self.file: FileContents(text.encode())}, self.state_dir)

        async def activate() -> None:
            if self.program.running:
                self.program.send_signal(signal.SIGHUP)
            else:
                await self.program.start(within(10), self.shown.exists)
            await wait_for_proof(
                self._missing, 0.5 if self.file.read_text() == "stuck" else within(10), "the new state is not shown"
            )

        await transaction.deploy(self._check, activate)

    def _missing(self) -> str | None:
        return None if self.shown.read_text() == self.file.read_text() else f"{self.shown.read_text()} is shown"

    async def _check(self, transaction: FileTransaction) -> None:
        await check_command(["grep", "-vq", "wrong", str(transaction.staged(self.file))], within(10), "it is refused")


async def test_a_program_follows_its_file_and_failures_leave_it_as_it_was(tmp_path: Path) -> None:
    it = Balancer(tmp_path)
    with capture_logs() as logs:
        try:
            await it.apply("one")
            await it.apply("two")
            pid = it.program.pid
            with pytest.raises(ApplyError, match="it is refused: grep: exit 1"):
                await it.apply("wrong")
            assert (it.file.read_text(), it.shown.read_text(), it.program.pid) == ("two", "two", pid)
            with pytest.raises(ApplyError, match=r"the new state is not shown within 0\.5 s: two is shown"):
                await it.apply("stuck")
            assert (it.file.read_text(), it.shown.read_text(), it.program.pid) == ("two", "two", pid)
        finally:
            await it.program.stop()
    assert not it.program.running
    # The program may be stopped while it writes a file of its own.
    left = {path.name for path in tmp_path.iterdir()} - {"shown.new"}
    assert left == {"file", "run", "shown", "state"}
    assert list(it.state_dir.iterdir()) == []
    assert "read two" in [each["event"] for each in logs]


async def test_a_program_that_ends_is_asked_for_and_one_that_is_left_is_adopted_or_ended(tmp_path: Path) -> None:
    it = Balancer(tmp_path)
    await it.apply("one")
    assert it.program.pid is not None
    os.kill(it.program.pid, signal.SIGKILL)
    await eventually(lambda: len(it.asked) == 1)
    assert not it.program.running
    await it.apply("one more")
    pid = it.program.pid
    await it.program.leave()
    successor = Balancer(tmp_path)
    assert await successor.program.adopt()
    assert successor.program.pid == pid
    await successor.apply("two")
    await successor.program.leave()
    assert pid is not None
    with ProcessHandle(pid) as handle:
        assert list(await end_left_program(it.run_dir)) == [pid]
        assert await handle.wait(within(5))
    assert await end_left_program(it.run_dir) == {}
    assert not await Balancer(tmp_path).program.adopt()


async def test_a_program_that_does_not_start_says_why(tmp_path: Path) -> None:
    it = Balancer(tmp_path)
    with pytest.raises(ApplyError, match="does not start: exit 1: .*it is deadly"):
        await it.apply("deadly")
    assert not it.file.exists()
    await it.program.stop()


async def test_files_are_replaced_together_and_keep_what_they_are(tmp_path: Path) -> None:
    old, link, new = tmp_path / "old", tmp_path / "link", tmp_path / "new"
    old.write_text("old")
    old.chmod(0o640)
    link.symlink_to(old)
    wanted = {link: FileContents(b"changed"), new: FileContents(b"made", 0o600)}
    transaction = FileTransaction(wanted, tmp_path / "state")
    transaction.stage()
    assert transaction.staged(new).read_bytes() == b"made"
    transaction.install()
    assert (old.read_text(), link.is_symlink(), oct(old.stat().st_mode)[-3:]) == ("changed", True, "640")
    assert recover_files(tmp_path / "state") == [old, new]  # as after the death of the daemon
    assert (old.read_text(), oct(old.stat().st_mode)[-3:], new.exists()) == ("old", "640", False)
    assert recover_files(tmp_path / "state") == []
    again = FileTransaction({old: FileContents(b"old")}, tmp_path / "state")
    assert again.is_empty
    with pytest.raises(ApplyError, match="two of the files are the same"):
        FileTransaction({old: FileContents(b""), link: FileContents(b"")}, tmp_path / "state")


@pytest.mark.parametrize("form", ["plain", "coroutine"])
async def test_a_deployment_calls_functions_of_either_form(tmp_path: Path, form: str) -> None:
    calls: list[str] = []

    async def check(transaction: FileTransaction) -> None:
        calls.append(transaction.staged(tmp_path / "file").read_text())

    async def activate() -> None:
        calls.append((tmp_path / "file").read_text())

    def plainly(transaction: FileTransaction) -> None:
        asyncio.get_running_loop()
        calls.append(transaction.staged(tmp_path / "file").read_text())

    def activate_plainly() -> None:
        calls.append((tmp_path / "file").read_text())

    chosen: tuple[Callable[[FileTransaction], Awaitable[None] | None], Callable[[], Awaitable[None] | None]]
    chosen = (check, activate) if form == "coroutine" else (plainly, activate_plainly)
    transaction = FileTransaction({tmp_path / "file": FileContents(b"x")}, tmp_path / "state")
    await transaction.deploy(*chosen)
    assert calls == ["x", "x"]


SCRIPT = """#!{python}
import os, signal, sys, time
if sys.argv[1] == "--check":
    sys.exit("no good port" if ":99" in open(sys.argv[2]).read() else 0)
def read(*_):
    open(sys.argv[2] + ".new", "w").write(open(sys.argv[1]).read())
    os.replace(sys.argv[2] + ".new", sys.argv[2])
signal.signal(signal.SIGHUP, read)
read()
while True:
    time.sleep(60)
"""


async def test_the_example_of_the_guide_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/plugins.md").read_text()
    (block,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Balancer(" in each)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/plugins.md", "exec"), names)
    program = tmp_path / "program"
    program.write_text(SCRIPT.format(python=sys.executable))
    program.chmod(0o755)
    context = Context("it", tmp_path, LOG)
    consumer = names["Balancer"](names["Options"](program=program), context)
    await consumer.setup()
    try:
        for state in (snapshot(backend(port=80)), snapshot(backend(port=81), backend("db", "x", port=82))):
            await consumer.apply(Update(state, None, diff(None, state)))
            assert (tmp_path / "shown").read_text() == "".join(f"{each.address}\n" for each in state.backends())
            assert consumer.health().ok
        wrong = snapshot(backend(port=99))
        with pytest.raises(ApplyError, match="it is refused: .*program: exit 1: no good port"):
            await consumer.apply(Update(wrong, state, diff(state, wrong)))
        assert ":81" in (tmp_path / "shown").read_text()
    finally:
        await consumer.teardown()
