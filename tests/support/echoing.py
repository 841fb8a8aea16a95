"""A third-party consumer that listens: it answers each line with its process id, and hands its socket over."""

import socket
from contextlib import suppress

from discovery.testing import within

ECHO = """
import asyncio, os, socket
from discovery import Consumer, Health, PluginConfig, hookimpl
from discovery.plugin import Sample


class Options(PluginConfig):
    port: int
    slow: float = 0
    stop: float = 30
    broken: str = ""


class Echo(Consumer[Options]):
    Config = Options

    @property
    def stop_seconds(self):
        return self.config.stop

    async def setup(self):
        self.answered, self.open, self.listening = 0, set(), None
        wanted = ("127.0.0.1", self.config.port)
        found = [each for each in self.context.inherited if each.getsockname() == wanted]
        if found:
            self.listening = socket.socket(fileno=found[0].detach())
        else:
            self.listening = socket.create_server(wanted, backlog=512)
        self.listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self.listening, self.accept)
        if self.config.broken == "setup":
            raise ValueError("a bug")
        self.context.log.info("listening", inherited=bool(found))

    def accept(self):
        try:
            connection, _ = self.listening.accept()
        except BlockingIOError:  # the predecessor or the successor was quicker
            return
        connection.setblocking(False)
        talk = asyncio.get_running_loop().create_task(self.talk(connection))
        self.open.add(talk)
        talk.add_done_callback(self.open.discard)

    async def talk(self, connection):
        loop = asyncio.get_running_loop()
        with connection:
            while line := await loop.sock_recv(connection, 100):
                await loop.sock_sendall(connection, b"%d " % os.getpid() + line)
                self.answered += 1

    async def apply(self, update):
        pass

    def metrics(self):
        yield Sample("answers", self.answered, {"port": str(self.config.port)})
        yield Sample("open", len(self.open), kind="gauge")
        yield Sample("not-a-name", 1)

    async def inspect(self):
        await asyncio.sleep(self.config.slow)
        if self.config.broken == "inspect":
            raise ValueError("a bug")
        return {"port": self.config.port, "plugin": "no other than what the core says"}

    async def hand_over(self):
        if self.config.broken == "hand_over":
            raise ValueError("a bug")
        if self.config.broken == "death":
            os._exit(7)
        if self.config.broken == "hang":
            await asyncio.Event().wait()
        asyncio.get_running_loop().remove_reader(self.listening)
        given, self.listening = self.listening, None
        return (given,)

    async def teardown(self):
        if getattr(self, "listening", None) is not None:
            asyncio.get_running_loop().remove_reader(self.listening)
            self.listening.close()
        while getattr(self, "open", None):
            await asyncio.wait(self.open)


@hookimpl
def discovery_register_consumers(register):
    register("echo", Echo)
"""


class Talk:
    """One connection to it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=within(20))
        self._answers = self._socket.makefile("rb")

    def ask(self) -> int:
        """The process that answers. Raises ConnectionError."""
        self._socket.sendall(b"x\n")
        answer = self._answers.readline()
        if not answer.endswith(b" x\n"):
            raise ConnectionResetError(f"answered {answer!r}")
        return int(answer.split()[0])

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


def ask(port: int) -> int:
    """The process that answers a new connection. Raises ConnectionError."""
    talk = Talk(port)
    try:
        return talk.ask()
    finally:
        talk.close()


def answering(port: int) -> int | None:
    """The process that answers a new connection, None if none does."""
    with suppress(OSError):
        return ask(port)
    return None
