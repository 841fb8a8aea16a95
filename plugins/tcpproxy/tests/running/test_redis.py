"""Redis clients with the ambassador between them and the server."""

import re
import subprocess
from pathlib import Path

import pytest
from ambassadors import TIMEOUT, Directory, StartCommand

from discovery.testing import eventually_sync, free_port, require_program, within

from .programs import Ambassador, Spawn, run

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@pytest.fixture
def redis(spawn: Spawn, short_path: Path) -> int:
    port = free_port()
    server = require_program("redis-server", wheel=False)
    spawn(server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(short_path))
    return port


@pytest.mark.parametrize(
    ("workers", "tests", "options"),
    [
        ("1", "set,get,lpush,lrange_100", ("-c", "20", "-n", "4000")),
        ("2", "set,get,lpush,lrange_100", ("-c", "50", "-n", "20000", "-P", "32")),
        ("1", "set,get", ("-c", "8", "-n", "400", "-d", "200000")),  # values of 200 kB
        ("2", "set,get", ("-c", "10", "-n", "1000", "-k", "0")),  # a connection per request
    ],
    ids=["plain", "pipelined", "large", "reconnecting"],
)
def test_redis_benchmark_completes_without_errors(
    redis: int, ambassador: Ambassador, workers: str, tests: str, options: tuple[str, ...]
) -> None:
    port = ambassador(redis, "--workers", workers)
    benchmark = require_program("redis-benchmark", wheel=False)
    said = run(benchmark, "-h", "127.0.0.1", "-p", str(port), "-t", tests, "--csv", *options)
    rows = said.decode().splitlines()[1:]
    assert len(rows) >= tests.count(",") + 1
    assert all(float(row.split(",")[1].strip('"')) > 0 for row in rows)
    assert b"rror" not in said


def test_redis_reaches_subscribers_and_blocked_clients(redis: int, ambassador: Ambassador) -> None:
    port = ambassador(redis)
    client = (require_program("redis-cli", wheel=False), "-h", "127.0.0.1", "-p", str(port))
    with (
        subprocess.Popen([*client, "subscribe", "news"], stdout=subprocess.PIPE, start_new_session=True) as subscriber,
        subprocess.Popen([*client, "blpop", "list", "60"], stdout=subprocess.PIPE) as waiting,
    ):
        try:
            assert subscriber.stdout is not None
            assert [subscriber.stdout.readline() for _ in range(3)] == [b"subscribe\n", b"news\n", b"1\n"]
            assert run(*client, "publish", "news", "hello") == b"1\n"
            assert [subscriber.stdout.readline() for _ in range(3)] == [b"message\n", b"news\n", b"hello\n"]
            eventually_sync(lambda: b"blocked_clients:1" in run(*client, "info", "clients"), "who waits", TIMEOUT)
            run(*client, "rpush", "list", "it")
            assert waiting.communicate(timeout=within(TIMEOUT))[0] == b"list\nit\n"
        finally:
            subscriber.kill()
            waiting.kill()


def test_an_upgrade_fails_no_redis_client_that_reconnects(
    redis: int, ambassador: Ambassador, start_command: StartCommand, directory: Directory, short_path: Path
) -> None:
    port = ambassador(redis)
    direct = (require_program("redis-cli", wheel=False), "-h", "127.0.0.1", "-p", str(redis))

    def served() -> int:
        found = re.search(rb"total_connections_received:(\d+)", run(*direct, "info", "stats"))
        assert found
        return int(found[1])

    def go_on() -> None:
        before = served()
        eventually_sync(lambda: served() > before + 300, "more connections", TIMEOUT)

    benchmark = require_program("redis-benchmark", wheel=False)
    with (
        (short_path / "benchmark").open("wb") as said,
        subprocess.Popen(
            [
                benchmark,
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                "-c",
                "16",
                "-n",
                "1000",
                "-k",
                "0",
                "-l",
                "-q",
                "-t",
                "get",
            ],
            stdout=said,
            stderr=said,
        ) as clients,
    ):
        try:
            go_on()
            for _ in range(4):
                before = start_command.started[-1]
                start_command("ambassador", "service", str(port), "--replace", "--registry", directory.url)
                assert before.process.wait(within(TIMEOUT)) == 0
                go_on()
            assert clients.poll() is None, (short_path / "benchmark").read_text()  # it ends at the first error
        finally:
            clients.kill()
    assert start_command.started[-1].stop() == 0
