"""A program is made to read its files by a request or a signal, and shows the new state by a request."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from template_driving import driven

from discovery import ApplyError, Backend
from discovery.testing import eventually, within
from discovery_template.consumer import TemplateConsumer

WEB = Backend("web", "1", "10.0.0.1", 80)
API = Backend("api", "1", "10.0.0.2", 80)
PROGRAM = """
import pathlib, signal, sys
def read(*_):
    with open(sys.argv[2], "a") as log:
        log.write(open(sys.argv[1]).read())
signal.signal(signal.SIGHUP, read)
pathlib.Path(sys.argv[2]).touch()
while True:
    signal.pause()
"""


class Program:
    """A web server in the place of a program: the first request line of each kind, and what is answered."""

    def __init__(self) -> None:
        self.reloads: list[str] = []
        self.status = 200
        self.state = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the query of a POST for the new state, and tell the state for a GET."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.splitlines()[0].split(" ")
        body = ""
        if method == "POST":
            self.reloads.append(target)
            self.state = target.partition("?")[2] if self.status == 200 else self.state
        else:
            body = f"state {self.state}."
        status = self.status if method == "POST" else 200
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Program, int]]:
    """Run a program for a block."""
    program = Program()
    async with await asyncio.start_server(program.answer, "127.0.0.1", 0) as server:
        yield program, server.sockets[0].getsockname()[1]


def files(directory: Path) -> list[dict[str, Any]]:
    """Write the template; return the table of the file."""
    (directory / "t.j2").write_text("{{ backends | length }} {{ generation }}\n")
    return [{"template": str(directory / "t.j2"), "file": str(directory / "file"), "format": "plain"}]


async def test_a_program_is_reloaded_by_a_request_and_shows_the_generation(tmp_path: Path) -> None:
    async with served() as (program, port):
        url = f"http://127.0.0.1:{port}"
        prove = {"url": f"{url}/state", "contains": "state {generation}.", "timeout": within(10)}
        config = {"files": files(tmp_path), "reload": {"url": f"{url}/reload?{{generation}}"}, "prove": prove}
        hasty = TemplateConsumer.Config.model_validate({**config, "prove": {**prove, "timeout": 0.1}})
        async with driven(TemplateConsumer, config, tmp_path) as driver:
            await driver.apply(WEB)
            former = (tmp_path / "file").read_text()
            assert former == f"1 {program.state}\n"
            program.status = 503
            with pytest.raises(ApplyError, match=r"the reload has failed: .*/reload\?[0-9a-f]{16} answers 503"):
                await driver.apply(WEB, API)
            assert (tmp_path / "file").read_text() == former
            program.status = 204  # taken, and not done
            patient = driver.consumer.config
            assert await driver.consumer.reconfigure(hasty)
            with pytest.raises(ApplyError, match=r"the new state is not shown within 0\.1 s: .*http://"):
                await driver.apply(WEB, API)
            assert (tmp_path / "file").read_text() == former
            program.status = 200
            assert await driver.consumer.reconfigure(patient)
            await driver.apply(WEB, API)
            assert (tmp_path / "file").read_text() == f"2 {program.state}\n"


async def test_the_program_of_a_pid_file_gets_the_signal(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    log, pid_file = tmp_path / "log", tmp_path / "pid"
    reload = {"signal": "SIGHUP", "pid_file": str(pid_file)}
    prove = ["grep", "-q", "{generation}", str(log)]
    config = {"files": files(tmp_path), "reload": reload, "prove": prove}
    program = [sys.executable, "-S", str(tmp_path / "program.py"), str(tmp_path / "file"), str(log)]
    process = await asyncio.create_subprocess_exec(*program)
    try:
        await eventually(log.exists, "the program to listen to signals")
        async with driven(TemplateConsumer, config, tmp_path) as driver:
            with pytest.raises(ApplyError, match="pid cannot be read: No such file"):
                await driver.apply(WEB)
            pid_file.write_text(f"{process.pid}\n")
            await driver.apply(WEB)
            assert log.read_text() == (tmp_path / "file").read_text()
            for wrong in ("", "0", "-1", "1", "x"):
                pid_file.write_text(wrong)
                with pytest.raises(ApplyError, match="pid has no process id"):
                    await driver.apply(WEB, API)
            assert log.read_text() == (tmp_path / "file").read_text()
    finally:
        process.kill()
        await process.wait()
    pid_file.write_text(str(process.pid))
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        with pytest.raises(ApplyError, match=rf"process {process.pid} of .*/pid: "):
            await driver.apply(WEB, API)
