"""TCP checks with a conversation: what is sent arrives byte by byte, and only the expected answer passes."""

import socketserver
import threading
from collections.abc import Iterator

import pytest
from haproxy_driver import Drive, live_servers

from discovery.testing import backend, eventually

SENT = "a\"b'c\\d #${HOME} %[src] ; é\t\r\n"
EXPECTED = 'role:"master" #é'


class Member(socketserver.ThreadingTCPServer):
    """A server that records what it is sent, and answers with its role."""

    daemon_threads = True

    def __init__(self, role: str) -> None:
        self.received: list[bytes] = []
        member = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                member.received.append(self.rfile.readline())
                self.wfile.write(f'+some more\r\nrole:"{role}" #é\r\n'.encode())

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@pytest.fixture
def members() -> Iterator[tuple[Member, Member]]:
    started = Member("master"), Member("slave")
    yield started
    for each in started:
        each.shutdown()
        each.server_close()


async def test_the_answer_to_a_conversation_decides(drive: Drive, members: tuple[Member, Member], bind: str) -> None:
    check = {"send": SENT, "expect": EXPECTED, "interval": "100ms", "fall": 1, "rise": 1, "init_state": "down"}
    web = {"mode": "tcp", "bind": bind, "check": check, "timeouts": {"check": "10s"}}
    master, slave = members
    async with drive(services={"web": web}) as driver:
        await driver.apply(backend(id="master", port=master.port), backend(id="slave", port=slave.port))

        async def is_decided() -> bool:
            servers = await live_servers(driver)
            return servers["web", "master"].up and not servers["web", "slave"].up and bool(slave.received)

        await eventually(is_decided, "the checks")
        assert {*master.received, *slave.received} == {SENT.encode()}
