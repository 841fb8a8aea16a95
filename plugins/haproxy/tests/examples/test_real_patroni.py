"""The example for Patroni with real members: Debian's Patroni and PostgreSQL, and an etcd."""

import json
import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from haproxy_example import Example
from stand_ins import asking

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, require_program, within

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

TIMEOUT = 120.0
"""Seconds that a condition is awaited: a member is copied in 5 s, and the lock of a dead primary ends after 20 s."""
BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/bin"))
"""PostgreSQL's programs, which Debian keeps outside of PATH."""


class Member:
    """A member of the cluster, as the user `postgres` if the test runs as root, since PostgreSQL refuses root."""

    def __init__(self, example: Example, etcd: EmbeddedEtcd, directory: Path, number: int) -> None:
        self.name, self.host = f"pg{number}", f"127.0.0.5{number}"
        address = f"{self.host}:{example.ports[5432]}"
        api = f"{self.host}:{example.ports[8008]}"
        self._data = directory / self.name
        login = {"username": "postgres"}
        sockets = directory / f"{self.name}.sockets"
        sockets.mkdir()
        sockets.chmod(0o777)
        parameters = {"fsync": "off", "unix_socket_directories": str(sockets), "max_connections": 20}
        settings = {
            "scope": "pg",
            "name": self.name,
            "restapi": {"listen": api, "connect_address": api},
            "etcd3": {"host": etcd.endpoint},
            "bootstrap": {
                "dcs": {"ttl": 20, "loop_wait": 1, "retry_timeout": 3},
                "initdb": ["no-sync", {"auth": "trust"}, {"encoding": "UTF8"}],
                "pg_hba": [f"{each} all trust" for each in ("local all", "host all all", "host replication all")],
            },
            "postgresql": {
                "listen": address,
                "connect_address": address,
                "data_dir": str(self._data),
                "pgpass": str(directory / f"{self.name}.pgpass"),
                "bin_dir": str(BINARIES),
                "authentication": {"superuser": login, "replication": login},
                "parameters": parameters,
            },
        }  # fmt: skip
        file = directory / f"{self.name}.json"  # JSON is YAML
        file.write_text(json.dumps(settings))
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
        with (directory / f"{self.name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*become, require_program("patroni", wheel=False), file], stdout=log, stderr=log, cwd=directory
            )
        example.register("pg", self.name, address)

    def kill(self) -> None:
        """Kill Patroni and PostgreSQL, as a machine that dies."""
        self._process.kill()
        self._process.wait()
        with suppress(FileNotFoundError, ProcessLookupError):
            postmaster = int((self._data / "postmaster.pid").read_text().split()[0])
            children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
            for pid in (postmaster, *map(int, children)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def etcd() -> Iterator[EmbeddedEtcd]:
    require_program("etcd")
    with EmbeddedEtcd() as etcd:
        yield etcd


StartMember = Callable[[Example, int], Member]


@pytest.fixture
def member(etcd: EmbeddedEtcd) -> Iterator[StartMember]:
    """Return a function that starts a member."""
    for program in ("patroni", "pg_createcluster"):  # the second is in every installation of PostgreSQL
        require_program(program, wheel=False)
    started: list[Member] = []
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as path:
        directory = Path(path)
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(directory, user.pw_uid, user.pw_gid)

        def start(example: Example, number: int) -> Member:
            started.append(Member(example, etcd, directory, number))
            return started[-1]

        yield start
        for each in started:
            each.kill()
        for log in sorted(directory.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()}")


def query(port: int, statement: str) -> str:
    """Return the result of a statement through HAProxy, empty if there is none."""
    connection = f"host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=5"
    command = [BINARIES / "psql", "-XAtq", "-c", statement, connection]
    return subprocess.run(command, capture_output=True, text=True, timeout=within(60), check=False).stdout.strip()


def test_a_fail_over_of_postgresql(example: Callable[..., Example], member: StartMember) -> None:
    edge = example("patroni.toml")
    primary, replicas = edge.ports[5432], edge.ports[5433]
    who, insert = "select host(inet_server_addr())", "insert into t values (8) returning n"
    with (
        asking(lambda: query(primary, who), every=0.2) as at_primary,
        asking(lambda: query(replicas, who), every=0.2) as at_replicas,
    ):
        edge.run()
        one = member(edge, 1)
        eventually_sync(lambda: at_primary[one.host] > 0, "a primary", TIMEOUT)
        two = member(edge, 2)
        eventually_sync(lambda: at_replicas[two.host] > 0, "a replica", TIMEOUT)
        assert query(primary, "create table t as select 7 as n; select n from t") == "7"
        eventually_sync(lambda: query(replicas, "select n from t") == "7", "the table at the replica", TIMEOUT)
        assert set(at_primary) - {""} == {one.host}
        assert set(at_replicas) - {""} == {two.host}
        one.kill()
        eventually_sync(lambda: query(primary, insert) == "8", "a write at the new primary", TIMEOUT)
        assert query(primary, who) == two.host
    assert edge.changes()["reload"] == 0
