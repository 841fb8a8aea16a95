"""A server for the registry of a test, and what a resolver answers."""

import re
import socket
from contextlib import suppress
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode

from discovery.testing import within

README = Path(__file__).parents[2] / "README.md"


def answers(
    port: int, name: str, kind: str, where: str = "127.0.0.1", sock: socket.socket | None = None, timeout: float = 2
) -> list[str]:
    """The data of the answer, or the code of the failure; empty if there is no answer.

    A name without a final dot is one of the domain. `sock` is a socket to ask with, which does not block.
    """
    query = dns.message.make_query(name if name.endswith(".") else f"{name}.service.internal.", kind)
    with suppress(dns.exception.Timeout):
        answer = dns.query.udp(query, where, port=port, timeout=within(timeout), sock=sock, ignore_unexpected=True)
        return [each.to_text() for rrset in answer.answer for each in rrset] or [dns.rcode.to_text(answer.rcode())]
    return []


def configuration(of: str, port: int) -> str:
    """The configuration of a resolver in the README, for a server at this port."""
    found = re.search(rf"^\*\*{re.escape(of)}\*\* .*?```\n(.*?)```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1].replace("5300", str(port))
