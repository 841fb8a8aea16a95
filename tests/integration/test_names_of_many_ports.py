"""A host name with addresses of both families and very many ports: what it costs to know which family is reached."""

import json
import subprocess
import sys

from naming import Machine, machine

from discovery.testing import within

__all__ = ["machine"]  # a fixture

SCRIPT = """
import asyncio, json, sys
from discovery.consuming.names import Names
from discovery.testing import eventually, free_port

PORTS = 200
LOOKUP = 0.2


async def main():
    ports, connections, servers = [free_port() for _ in range(PORTS)], 0, []

    def count(reader, writer):
        nonlocal connections
        connections += 1
        writer.close()

    async def listen(host):
        for server in servers:
            server.close()
        servers[:] = [await asyncio.start_server(count, host, port) for port in ports]

    def first():
        return {names.addresses["both.test", port][0] for port in ports}

    names = Names(lambda: None, every=LOOKUP)
    await listen("127.0.0.1")
    names.follow([("both.test", port) for port in ports])
    await names.settled(60)
    at_once = first() == {"127.0.0.1"}
    connections = 0
    await asyncio.sleep(6 * LOOKUP)  # connections are counted in a period of several lookups
    in_between = connections
    await listen("::1")
    await eventually(lambda: first() == {"::1"}, timeout=30)
    await names.close()
    print(json.dumps([at_once, in_between]))

asyncio.run(main())
"""


def test_few_connections_are_made_and_all_ports_follow_the_family_that_is_reached(machine: Machine) -> None:
    machine.hosts("::1 both.test", "127.0.0.1 both.test")
    command = [*machine.under, sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=within(120), check=False)
    assert done.returncode == 0, done.stderr
    at_once, connections = json.loads(done.stdout)
    assert at_once
    # In 1.2 s there are at most eight lookups, 0.16 to 0.2 s apart, after each of which 32 ports are tested.
    assert 0 < connections <= 8 * 32
