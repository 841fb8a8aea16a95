"""The example for Galera with real nodes: Debian's MariaDB and Galera.

`clustercheck`, which Debian lacks, is a stand-in that asks its node for `wsrep_local_state`, as that script does.
"""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from haproxy_example import Example
from stand_ins import Servers, asking

from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

TIMEOUT = 120.0
"""Seconds that a condition is awaited: a node copies the data of another node in 5 s."""
USER = "mysql"
SYNCED = "4"
"""The `wsrep_local_state` of a node in sync."""


class Node:
    """A node of the cluster, and its `clustercheck`. `seed` is a node of the cluster, None for the first node."""

    def __init__(
        self,
        example: Example,
        servers: Servers,
        directory: Path,
        ports: tuple[int, int],
        number: int,
        seed: "Node | None",
    ) -> None:
        self.name, self.host, self.port = f"db{number}", f"127.0.0.2{number}", example.ports[3306]
        data, (group, transfer) = directory / self.name, ports
        common = ["--no-defaults", f"--datadir={data}", "--innodb-log-file-size=8M"]
        if seed is None:
            install = [require_program("mariadb-install-db", wheel=False), *common, "--skip-test-db"]
            _run([*install, "--auth-root-authentication-method=normal"], directory)
        else:
            _run(["mkdir", data], directory)
        rights = directory / "rights.sql"
        rights.write_text("create user root@'%'; grant all on *.* to root@'%';\n" if seed is None else "")
        options = [
            f"--bind-address={self.host}", f"--port={self.port}", f"--socket={directory / f'{self.name}.sock'}",
            f"--pid-file={directory / f'{self.name}.pid'}", "--binlog-format=ROW", f"--init-file={rights}",
            "--wsrep-on=ON", "--wsrep-provider=/usr/lib/galera/libgalera_smm.so", "--wsrep-sst-method=rsync",
            f"--wsrep-cluster-address=gcomm://{f'{seed.host}:{group}' if seed else ''}",
            f"--wsrep-node-name={self.name}", f"--wsrep-node-address={self.host}",
            # Of two nodes one has no majority; a real cluster has three.
            f"--wsrep-provider-options=gmcast.listen_addr=tcp://{self.host}:{group};pc.ignore_quorum=true",
            f"--wsrep-sst-receive-address={self.host}:{transfer}",
        ]  # fmt: skip
        with (directory / f"{self.name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*_become(), require_program("mariadbd", wheel=False), *common, *options], stdout=log, stderr=log
            )
        self._check = servers.http(f"{self.host}:{example.ports[9200]}", self._answer)

    def query(self, statement: str) -> str:
        """Return the last word of the result; empty if there is none."""
        return query(self.host, self.port, statement)

    def kill(self) -> None:
        """Kill the node, as a machine that dies."""
        self._check.kill()
        self._process.kill()
        self._process.wait()

    def _answer(self, path: str) -> tuple[int, str]:
        state = self.query("show status like 'wsrep_local_state'")
        return (200 if state == SYNCED else 503), f"Galera: the state is {state or 'unknown'}\r\n"


StartNode = Callable[..., Node]


@pytest.fixture
def node(servers: Servers) -> Iterator[StartNode]:
    """Return a function that starts a node: the arguments are the example, a number, and another node to join."""
    for program in ("mariadbd", "mariadb", "rsync"):
        require_program(program, wheel=False)
    ports = free_port(), free_port()
    started: list[Node] = []
    with tempfile.TemporaryDirectory(prefix="galera-", ignore_cleanup_errors=True) as path:
        directory = Path(path)
        if os.getuid() == 0:
            user = pwd.getpwnam(USER)
            os.chown(directory, user.pw_uid, user.pw_gid)

        def start(example: Example, number: int, seed: Node | None = None) -> Node:
            started.append(Node(example, servers, directory, ports, number, seed))
            return started[-1]

        yield start
        for each in started:
            each.kill()
        for log in sorted(directory.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')}")


def query(host: str, port: int, statement: str) -> str:
    """Return the last word of the statement's result; empty if there is none."""
    command = ["mariadb", "--no-defaults", "-h", host, "-P", str(port), "-u", "root", "-N", "-e", statement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=within(60), check=False)
    return done.stdout.split()[-1] if done.returncode == 0 and done.stdout.split() else ""


def _become() -> list[str]:
    """Return the command that runs another as the user of MariaDB, whose copies of data refuse root."""
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"] if os.getuid() == 0 else []


def _run(command: list[str | Path], directory: Path) -> None:
    subprocess.run([*_become(), *command], cwd=directory, check=True, capture_output=True, timeout=within(120))


def test_a_fail_over_of_galera(example: Callable[..., Example], node: StartNode) -> None:
    edge = example("galera.toml")
    writes, reads = edge.ports[3306], edge.ports[3307]
    who = "select @@wsrep_node_name"
    with asking(lambda: query("127.0.0.1", writes, who), every=0.2) as at_writes:
        one = node(edge, 1)
        edge.register("galera", one.name, f"{one.host}:{one.port}", role="writer")
        edge.run()
        eventually_sync(lambda: at_writes[one.name] > 0, "the writer", TIMEOUT)
        two = node(edge, 2, one)
        edge.register("galera", two.name, f"{two.host}:{two.port}")
        eventually_sync(lambda: query("127.0.0.1", reads, who) == two.name, "a read from the second node", TIMEOUT)
        assert set(at_writes) - {""} == {one.name}
        assert one.query("set global wsrep_desync = on; select 'donor'") == "donor"
        eventually_sync(lambda: at_writes[two.name] > 3, "writes at the second node", TIMEOUT)
        assert query("127.0.0.1", writes, "create database d; select 1") == "1"
        assert one.query("set global wsrep_desync = off; select 'synced'") == "synced"
        eventually_sync(lambda: query("127.0.0.1", writes, who) == one.name, "the writer again", TIMEOUT)
        one.kill()
        create = "create database if not exists after; select 2"
        eventually_sync(lambda: query("127.0.0.1", writes, create) == "2", "a write at the second node", TIMEOUT)
        assert query("127.0.0.1", writes, who) == two.name
    assert edge.changes()["reload"] == 0
