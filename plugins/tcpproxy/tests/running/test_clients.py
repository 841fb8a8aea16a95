"""Real clients and servers with the ambassador between them: Redis, SSH, nc, WebSockets, curl and wrk."""

import asyncio
import hashlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from aiohttp import ClientSession, WSMsgType, web
from ambassadors import TIMEOUT, Directory, StartCommand, connect

from discovery.model import join_host_port
from discovery.testing import eventually_sync, free_port, require_program, within

Spawn = Callable[..., subprocess.Popen[bytes]]
PATIENCE = 60.0


@pytest.fixture
def spawn(short_path: Path) -> Iterator[Spawn]:
    """Starts a server that runs until the test ends, its words in a file."""
    with ExitStack() as stack:
        log = stack.enter_context((short_path / "servers.log").open("wb"))

        def start(*command: str | Path) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            stack.callback(_end, process)
            return process

        yield start
        print((short_path / "servers.log").read_text(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def ambassador(start_command: StartCommand, directory: Directory) -> Callable[..., int]:
    """Runs one for a server, and tells the port of either; both listen when it returns."""

    def start(server: int, *options: str, host: str = "127.0.0.1") -> int:
        eventually_sync(lambda: socket.create_connection((host, server)).close() is None, "the server", TIMEOUT)
        directory.put("service", server, host)
        port = free_port()
        start_command("ambassador", "service", str(port), "--registry", directory.url, *options)
        connect(port, host if "--listen" in options else "127.0.0.1").close()
        return port

    return start


Ambassador = Callable[..., int]


def run(*command: str | Path, input: bytes = b"") -> bytes:  # noqa: A002 - as subprocess has it
    """What a client says that is to succeed."""
    ran = subprocess.run(command, input=input, capture_output=True, timeout=within(PATIENCE), check=False)
    assert ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout!r}\n{ran.stderr!r}"
    return ran.stdout


# Redis


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
def test_redis_with_its_own_benchmark(
    redis: int, ambassador: Ambassador, workers: str, tests: str, options: tuple[str, ...]
) -> None:
    port = ambassador(redis, "--workers", workers)
    benchmark = require_program("redis-benchmark", wheel=False)
    said = run(benchmark, "-h", "127.0.0.1", "-p", str(port), "-t", tests, "--csv", *options)
    rows = said.decode().splitlines()[1:]
    assert len(rows) >= tests.count(",") + 1
    assert all(float(row.split(",")[1].strip('"')) > 0 for row in rows)
    assert b"rror" not in said


def test_redis_tells_subscribers_and_who_waits(redis: int, ambassador: Ambassador) -> None:
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


def test_redis_clients_that_reconnect_notice_no_upgrade(
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


# SSH


@pytest.fixture
def ssh(spawn: Spawn, short_path: Path) -> tuple[int, Callable[[int], list[str | Path]]]:
    """A real sshd's port, and the command of a client that connects to a port."""
    server = require_program("sshd", wheel=False)
    client, keygen = require_program("ssh", wheel=False), require_program("ssh-keygen", wheel=False)
    host_key, user_key = short_path / "host", short_path / "user"
    for key in (host_key, user_key):
        run(keygen, "-q", "-t", "ed25519", "-N", "", "-f", key)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it insists; a boot makes it elsewhere
    port = free_port()
    config = short_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nAuthorizedKeysFile {user_key}.pub\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nUseDNS no\n"
    )
    spawn(server, "-D", "-e", "-f", config)

    def command(at: int) -> list[str | Path]:
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        options += ["IdentityAgent=none", "ConnectTimeout=30"]
        flags = [word for option in options for word in ("-o", option)]
        return [client, "-F", "none", *flags, "-i", user_key, "-p", str(at), "127.0.0.1"]

    return port, command


def test_an_ssh_session_goes_on_whatever_becomes_of_its_backend_in_the_registry(
    ssh: tuple[int, Callable[[int], list[str | Path]]], ambassador: Ambassador, directory: Directory
) -> None:
    server, client = ssh
    port = ambassador(server)
    shell = 'stty -echo; echo ready; while read -r line; do [ "$line" = bye ] && exit 7; echo "<$line>"; done'
    with subprocess.Popen(
        [*client(port)[:-1], "-tt", "127.0.0.1", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as session:
        assert session.stdin is not None
        assert session.stdout is not None

        def says(line: str) -> None:
            session.stdin.write(f"{line}\n".encode())
            session.stdin.flush()
            assert session.stdout.readline() == f"<{line}>\r\n".encode()

        try:
            assert session.stdout.readline() == b"ready\r\n"
            for number in range(200):
                says(f"{number}" + "x" * number)
            directory.remove("service")
            with socket.create_server(("127.0.0.1", 0)) as elsewhere:
                directory.put("service", elsewhere.getsockname()[1], id_="b2")
                elsewhere.settimeout(0.2)
                eventually_sync(lambda: _arrives(port, elsewhere), "newcomers to go elsewhere", TIMEOUT)
                says("still here")
            directory.remove("service", "b2")
            says("and here")
            session.stdin.write(b"bye\n")
            session.stdin.flush()
            assert session.wait(within(TIMEOUT)) == 7
        finally:
            session.kill()


def _arrives(port: int, elsewhere: socket.socket) -> bool:
    with connect(port):
        elsewhere.accept()[0].close()
    return True


def test_much_goes_through_ssh_both_ways_unharmed(
    ssh: tuple[int, Callable[[int], list[str | Path]]], ambassador: Ambassador
) -> None:
    server, client = ssh
    port = ambassador(server, "--workers", "2")
    data = os.urandom(1 << 20) * 8
    assert run(*client(port), "sha256sum", input=data).split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert run(*client(port), "cat", input=data) == data


# nc


def is_answered(port: int) -> bool:
    """Whether a client that half-closes at once is answered: it is not while it has to be held."""
    with connect(port) as client, suppress(ConnectionResetError):
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        return bool(client.recv(1))
    return False


def test_nc_ends_its_request_and_still_gets_its_answer(spawn: Spawn, ambassador: Ambassador) -> None:
    server = free_port()
    # sha256sum answers once it has seen the end of what it is sent.
    spawn(
        require_program("socat", wheel=False), "-t", "60",
        f"TCP-LISTEN:{server},bind=127.0.0.1,reuseaddr,fork,backlog=64", "EXEC:sha256sum",
    )  # fmt: skip
    port = ambassador(server)
    nc = require_program("nc", wheel=False)
    eventually_sync(lambda: is_answered(port), "the backend to be known", TIMEOUT)  # until then nc would be held
    for size in (0, 1, 100, 1 << 20):
        data = os.urandom(size)
        answer = run(nc, "-N", "127.0.0.1", str(port), input=data)
        assert answer.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_nc_is_told_the_end_and_goes_on_sending(start_command: StartCommand, directory: Directory) -> None:
    """The other way round: the server has said all that it will, and still listens."""
    server, port, sent = free_port(), free_port(), b"but not for us" * 1000
    directory.put("service", server)
    start_command("ambassador", "service", str(port), "--hold", "60", "--registry", directory.url)
    nc = require_program("nc", wheel=False)
    with (
        connect(port) as client,
        client.makefile("rb") as answer,
        subprocess.Popen(
            [nc, "-N", "-l", "127.0.0.1", str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as listener,
    ):
        try:
            assert listener.stdin is not None
            assert listener.stdout is not None
            listener.stdin.write(b"that is all\n")
            listener.stdin.close()
            assert answer.read() == b"that is all\n"
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            assert listener.stdout.read() == sent
            assert listener.wait(within(TIMEOUT)) == 0
        finally:
            listener.kill()


# HTTP


@pytest.fixture
def nginx(spawn: Spawn, short_path: Path) -> Callable[..., int]:
    """Starts an nginx that serves `small` and `large`; the port that it listens on."""
    program = require_program("nginx", wheel=False)
    pages = short_path / "pages"
    pages.mkdir()
    (pages / "small").write_text("It works!\n")
    (pages / "large").write_bytes(os.urandom(1 << 20) * 4)
    short_path.chmod(0o755)

    def start(host: str = "127.0.0.1") -> int:
        port = free_port()
        at = join_host_port(host, port)
        config = short_path / "nginx.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {short_path}/nginx.pid; error_log stderr;\n"
            f"events {{ worker_connections 512; }}\nhttp {{ access_log off; keepalive_requests 1000000;\n"
            + "".join(f"{kind}_temp_path {short_path}/{kind};\n" for kind in _TEMPORARY)
            + f"server {{ listen {at}; root {pages}; }} }}\n"
        )
        spawn(program, "-p", short_path, "-e", "stderr", "-c", config)
        return port

    return start


_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def test_curl_keeps_its_connection(nginx: Callable[..., int], ambassador: Ambassador, short_path: Path) -> None:
    url = f"http://127.0.0.1:{ambassador(nginx())}"
    large = (short_path / "pages" / "large").read_bytes()
    curl = require_program("curl", wheel=False)
    pages = ("small", "large", "small", "large")
    saved = [
        word for number, page in enumerate(pages) for word in ("-o", short_path / f"got-{number}", f"{url}/{page}")
    ]
    told = run(curl, "-sS", "--noproxy", "*", "--fail", "-w", "%{num_connects}\\n", *saved)
    assert told.split() == [b"1", b"0", b"0", b"0"]
    assert [(short_path / f"got-{number}").read_bytes() == large for number in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("close", [False, True], ids=["keep-alive", "close"])
def test_wrk_sees_no_error(nginx: Callable[..., int], ambassador: Ambassador, close: bool) -> None:
    url = f"http://127.0.0.1:{ambassador(nginx())}/small"
    headers = ("-H", "Connection: close") if close else ()
    said = run(require_program("wrk", wheel=False), "-t", "1", "-c", "16", "-d", "1", *headers, url).decode()
    found = re.search(r"(\d+) requests in", said)
    assert found, said
    assert int(found[1]) > 16
    assert "Socket errors" not in said
    assert "Non-2xx" not in said


def test_ipv6_from_end_to_end(nginx: Callable[..., int], ambassador: Ambassador) -> None:
    port = ambassador(nginx("::1"), "--listen", "::1", host="::1")
    curl = require_program("curl", wheel=False)
    assert run(curl, "-sS", "--noproxy", "*", "--fail", "-g", f"http://[::1]:{port}/small") == b"It works!\n"


def test_a_unix_socket_with_curl(nginx: Callable[..., int], start_command: StartCommand, short_path: Path) -> None:
    path = short_path / "web.sock"
    run_ = start_command("forward", f"127.0.0.1:{nginx()}", "--listen", f"unix:{path}")
    eventually_sync(path.is_socket, "the socket to be there", TIMEOUT)
    curl = require_program("curl", wheel=False)
    fetch = (curl, "-sS", "--noproxy", "*", "--fail", "--unix-socket", path, "http://web.example/small")
    assert run(*fetch) == b"It works!\n"
    assert run_.stop() == 0
    assert not path.exists()


def test_http_is_upgraded_to_a_websocket(ambassador: Ambassador) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket_ = web.WebSocketResponse(max_msg_size=0)
        await socket_.prepare(request)
        async for message in socket_:
            await (
                socket_.send_str(message.data) if message.type is WSMsgType.TEXT else socket_.send_bytes(message.data)
            )
        return socket_

    async def talk() -> None:
        app = web.Application()
        app.add_routes([web.get("/", echo)])
        runner = web.AppRunner(app)
        await runner.setup()
        server = free_port()
        await web.TCPSite(runner, "127.0.0.1", server).start()
        try:
            port = await asyncio.to_thread(ambassador, server)
            async with (
                ClientSession() as session,
                session.ws_connect(f"http://127.0.0.1:{port}/", max_msg_size=0) as end,
            ):
                for size in (0, 1, 125, 126, 65536, 3 << 20):
                    data = os.urandom(size)
                    await end.send_bytes(data)
                    assert await end.receive_bytes(timeout=within(TIMEOUT)) == data
                    await end.send_str("and a word")
                    assert await end.receive_str(timeout=within(TIMEOUT)) == "and a word"
                await end.close()
                assert end.close_code == 1000
        finally:
            await runner.cleanup()

    asyncio.run(talk())
