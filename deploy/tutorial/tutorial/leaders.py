"""Asks members of etcd again and again who their leader is, and tells each answer that differs from the one before.

A program of its own, on the standard library alone, which runs in the network of the machines: while a machine loses
power, the tutorial is busy with the end of that machine, and would learn late of the election. Its arguments are
`NAME=HOST:PORT` of each member. It writes a line of JSON for each answer that is told: when it came (CLOCK_MONOTONIC,
which all processes share), the member's name and id, and the id of the leader, 0 if there is none or no answer.
"""

import http.client
import json
import sys
import time

_PAUSE = 0.01
"""Seconds between two rounds of questions: the election counts in the tenths that the tutorial shows."""
_LIMIT = 1.0
"""Seconds for an answer of a member that lives."""


class Member:
    """A member of etcd, which is asked by the JSON gateway of its API."""

    def __init__(self, name: str, address: str) -> None:
        """Describe the member; nothing is asked."""
        self.name = name
        self._connection = http.client.HTTPConnection(address, timeout=_LIMIT)

    def ask(self) -> tuple[int, int]:
        """Return the ids of the member and of its leader; zeros if it does not answer."""
        try:
            self._connection.request("POST", "/v3/maintenance/status", "{}")
            status = json.load(self._connection.getresponse())
            return int(status["header"]["member_id"]), int(status.get("leader", 0))
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            self._connection.close()
            return 0, 0


def main(*arguments: str) -> None:
    """Ask the members until the process is ended."""
    members = [Member(*each.split("=", 1)) for each in arguments]
    told: dict[str, tuple[int, int]] = {}
    while True:
        for member in members:
            answer = member.ask()
            if told.get(member.name) != answer:
                told[member.name] = answer
                print(json.dumps([time.monotonic(), member.name, *answer]), flush=True)
        time.sleep(_PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])
