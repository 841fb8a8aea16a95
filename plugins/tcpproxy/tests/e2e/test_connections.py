"""`discovery connections` lists the open connections of a daemon."""

import json
import os

import pytest
import warm
from ambassadors import TIMEOUT, Directory, connect
from daemons import Starter
from proxies import Serve

from discovery.testing import eventually_sync, free_port, within

pytestmark = pytest.mark.warm


@pytest.mark.costly
def test_connections_lists_the_connections_of_a_daemon(
    directory: Directory, start_daemon: Starter, named: Serve
) -> None:
    server = named("it")
    directory.put("web", server.port)
    port = free_port()
    daemon = start_daemon(
        "--registry", directory.url, "--plugin", "tcpproxy", "--set", f"tcpproxy.listen.web=127.0.0.1:{port}",
        "--set", f"tcpproxy.listen.nobody=127.0.0.1:{free_port()}", "--set", "tcpproxy.workers=2",
    )  # fmt: skip
    asking = ("connections", "--admin", daemon.admin)

    def listed(*options: str) -> str:
        ran = warm.run(*asking, *options, env=os.environ, timeout=within(TIMEOUT))
        assert (ran.returncode, ran.stderr.replace("discovery: no connections\n", "")) == (0, "")
        return ran.stdout

    with connect(port) as client, client.makefile("rb") as answer:
        assert answer.readline() == b"it\n"
        client.sendall(b"hello\n")
        assert answer.readline() == b"hello\n"
        (line,) = listed().splitlines()[1:]
        ours = f"127.0.0.1:{client.getsockname()[1]}"
        words = line.split()
        assert words[:5] == ["tcpproxy", "web", ours, "b1", f"127.0.0.1:{server.port}"]
        assert words[6:] == ["6B", "9B", "open"]
        (told,) = json.loads(listed("--json", "--consumer", "tcpproxy"))["connections"]
        assert (told["client"], told["service"]) == (list(client.getsockname()), "web")
    eventually_sync(lambda: listed() == "", "nothing to be left", TIMEOUT)
