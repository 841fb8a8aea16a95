"""Errors of engines that are absent, forbidden, silent or not Docker. These tests do not need Docker."""

import asyncio
import grp
import itertools
import os
import pwd
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import docker
import pytest
import structlog
import trustme

from discovery.testing import cannot_run, free_port, within
from discovery_docker.dockerapi import EngineInfo, connect, explain, identity
from discovery_docker.engine import Engine, EngineError
from discovery_docker.patience import PATIENCE, Patience


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory with a short path, since a socket's path has at most 107 bytes; open to every user."""
    with TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o755)
        yield Path(place)


async def complaint(url: str | None, patience: Patience = PATIENCE) -> str:
    """Return the error of following the engine at `url`."""
    views = Engine(url, structlog.get_logger(), patience=patience).follow()
    async with asyncio.timeout(within(30)):
        with pytest.raises(EngineError) as raised:
            await anext(views)
    return str(raised.value)


@asynccontextmanager
async def answering(
    status: str,
    *bodies: bytes,
    version: str | None = "1.41",
    context: ssl.SSLContext | None = None,
    path: Path | None = None,
) -> AsyncIterator[str]:
    """Run a server with an answer, or several in turn, on a port or at `path`. The value is the server's address.

    `version` is that of the API, in a header as of an engine; None for no such header.
    """
    answers = itertools.cycle(bodies)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = next(answers)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        head += "\r\n" if version is None else f"Api-Version: {version}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    if path is not None:
        server = await asyncio.start_unix_server(answer, path)
    else:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield str(path) if path else f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextmanager
def as_nobody() -> Iterator[str]:
    """Run as the user nobody, since root may use every file. The value is the user's name."""
    if os.geteuid() != 0:
        yield pwd.getpwuid(os.geteuid()).pw_name
        return
    os.seteuid(65534)
    try:
        yield pwd.getpwuid(65534).pw_name
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    "url",
    [
        *("ssh://host", "npipe:////./pipe/docker", "/var/run/docker.sock", "dockerd", "unix://"),
        *("tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "tcp://[::1:2375"),
    ],
)
async def test_an_unusable_url_is_refused(url: str) -> None:
    assert await complaint(url) == (
        f"{url} is not a usable Docker engine: give unix:///PATH or tcp://HOST:PORT, or the word docker or podman"
    )


async def test_a_password_is_not_shown() -> None:
    said = await complaint("tcp://user:secret@127.0.0.1:2375")
    assert "holds a user" in said
    assert "secret" not in said


async def test_a_missing_socket_is_named(directory: Path) -> None:
    url = f"unix://{directory}/docker.sock"
    assert await complaint(url) == f"there is no Docker engine at {url}: start Docker, or set another URL"


async def test_an_address_without_a_server_is_named(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(f"{directory}/docker.sock")
    for url in (f"unix://{directory}/docker.sock", f"tcp://127.0.0.1:{free_port()}"):
        assert await complaint(url) == f"there is no Docker engine at {url}: start Docker, or set another URL"


@pytest.mark.parametrize("container", [None, "1" * 64], ids=["machine", "container"])
async def test_a_socket_without_permission_is_named_with_a_remedy(container: str | None, directory: Path) -> None:
    path = directory / "docker.sock"
    async with answering("200 OK", b"OK", path=path):
        path.chmod(0o000)
        if os.geteuid() == 0:
            os.chown(path, 0, grp.getgrnam("daemon").gr_gid)
        with as_nobody() as user:
            with pytest.raises(OSError) as refused:  # noqa: PT011 - the test is what explains it
                await asyncio.to_thread(connect, f"unix://{path}")
            said = str(explain(f"unix://{path}", refused.value, lambda: container))
        remedy = f"add the user to the group {path.group()}"
        if container is not None:
            remedy = f"start this container with --group-add {path.stat().st_gid}, the group of the socket"
        assert said == f"user {user} may not use the Docker engine at unix://{path}: {remedy}"


SEEN_IN_A_USER_NAMESPACE = """
import sys
from discovery_docker.dockerapi import explain
print(explain(sys.argv[1], PermissionError(), lambda: "1" * 64))
"""


def test_the_group_of_a_socket_that_the_user_namespace_lacks_is_no_remedy(directory: Path) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can give a socket a group that the user namespace lacks")
    url = f"unix://{directory}/docker.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(url.removeprefix("unix://"))
        os.chown(url.removeprefix("unix://"), 0, grp.getgrnam("daemon").gr_gid)
        script = [sys.executable, "-c", SEEN_IN_A_USER_NAMESPACE, url]
        inside = ["unshare", "--user", "--map-root-user", *script]
        here, there = (
            subprocess.run(each, capture_output=True, text=True, check=False, timeout=within(60))
            for each in (script, inside)
        )
    if there.returncode != 0 and "unshare" in there.stderr:
        cannot_run(f"no user namespace can be made here: {there.stderr.strip()}")
    assert f"with --group-add {grp.getgrnam('daemon').gr_gid}, the group of the socket" in here.stdout
    assert "--group-add 65534" not in there.stdout
    assert "its user namespace lacks the group of the socket" in there.stdout, there.stderr


async def test_an_engine_that_accepts_and_never_answers(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{directory}/docker.sock")
        silent.listen()
        said = await complaint(f"unix://{directory}/docker.sock", Patience(connect=0.2))
    assert said == f"the Docker engine at unix://{directory}/docker.sock is not responding"


@pytest.mark.parametrize(
    ("status", "version", "body", "says"),
    [
        ("200 OK", "1.23", b"OK", "is too old: its API has version 1.23, and version 1.24 or"),
        ("200 OK", None, b"<html>It works!</html>", "the server at tcp://{address} is not a Docker engine"),
        ("200 OK", "new", b"OK", "the server at tcp://{address} is not a Docker engine"),
        ("200 OK", "1.", b"OK", "the server at tcp://{address} is not a Docker engine"),
        ("403 Forbidden", None, b"not\nfor you", "refuses the request: not for you (status 403)"),
        (
            "400 Bad Request",
            None,
            b"Client sent an HTTP request to an HTTPS server.",
            "the Docker engine at tcp://{address} requires TLS: set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH",
        ),
    ],
)
async def test_an_invalid_answer_is_named(status: str, version: str | None, body: bytes, says: str) -> None:
    async with answering(status, body, version=version) as address:
        said = await complaint(f"tcp://{address}")
    assert says.format(address=address) in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("status", "bodies", "told"),
    [
        ("200 OK", [b'{"ID": "AB:CD", "Name": "host-1", "More": 1}'], EngineInfo("AB:CD", "host-1")),
        ("200 OK", [b'{"ID": "1", "Name": "host-1"}', b'{"ID": "2", "Name": "host-1"}'], EngineInfo("", "host-1")),
        ("200 OK", [b'{"ID": null}'], EngineInfo()),
        ("200 OK", [b"[]"], EngineInfo()),
        ("200 OK", [b"<html>"], EngineInfo()),
        ("403 Forbidden", [b"no"], EngineInfo()),
    ],
    ids=["Docker", "Podman", "nothing", "a list", "a page", "a proxy that allows less"],
)
async def test_an_engine_has_an_id_if_it_is_the_same_at_each_request(
    status: str, bodies: list[bytes], told: EngineInfo
) -> None:
    async with answering(status, *bodies) as address:
        client = docker.APIClient(f"tcp://{address}", version="1.41")
        assert await asyncio.to_thread(identity, client) == told
        client.close()


class TestTLS:
    """The certificates of the engine and of the client."""

    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def context(self, authority: trustme.CA) -> ssl.SSLContext:
        """Return the TLS context of an engine with --tlsverify."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    @pytest.fixture
    def certificates(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[trustme.CA], Path]:
        """Return a function that writes the files of DOCKER_CERT_PATH."""

        def write(authority: trustme.CA) -> Path:
            own = authority.issue_cert("client@example.org")
            authority.cert_pem.write_to_path(directory / "ca.pem")
            own.cert_chain_pems[0].write_to_path(directory / "cert.pem")
            own.private_key_pem.write_to_path(directory / "key.pem")
            monkeypatch.setenv("DOCKER_CERT_PATH", str(directory))
            return directory

        return write

    @staticmethod
    async def met(context: ssl.SSLContext) -> str:
        """Return the error for an engine of an old version, which proves that the engine was reached."""
        async with answering("200 OK", b"OK", version="1.12", context=context) as address:
            return await complaint(f"tcp://{address}")

    async def test_the_right_certificates_reach_the_engine(
        self,
        authority: trustme.CA,
        context: ssl.SSLContext,
        certificates: Callable[[trustme.CA], Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        certificates(authority)
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        assert "is too old" in await self.met(context)

    async def test_the_environments_other_certificates_do_not_count(
        self,
        authority: trustme.CA,
        context: ssl.SSLContext,
        certificates: Callable[[trustme.CA], Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Certificates for web sites, as companies configure on every machine."""
        place = certificates(authority)
        others = place / "others.pem"
        trustme.CA().cert_pem.write_to_path(others)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(others))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
        assert "is too old" in await self.met(context)

    async def test_an_engine_with_a_certificate_of_another_authority_is_refused(
        self, context: ssl.SSLContext, certificates: Callable[[trustme.CA], Path]
    ) -> None:
        certificates(trustme.CA())
        said = await self.met(context)
        assert "no TLS with the Docker engine at tcp://127.0.0.1:" in said
        assert said.endswith("; see DOCKER_CERT_PATH")

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    async def test_without_verification_only_if_asked_for(
        self,
        context: ssl.SSLContext,
        certificates: Callable[[trustme.CA], Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        context.verify_mode = ssl.CERT_NONE
        certificates(trustme.CA())
        assert "no TLS" in await self.met(context)
        monkeypatch.setenv("DOCKER_TLS", "1")
        assert "is too old" in await self.met(context)
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        assert "no TLS" in await self.met(context)

    @pytest.mark.parametrize("name", ["ca.pem", "key.pem", "cert.pem"])
    async def test_a_certificate_is_missing(
        self, authority: trustme.CA, certificates: Callable[[trustme.CA], Path], name: str
    ) -> None:
        missing = certificates(authority) / name
        missing.unlink()
        assert await complaint("tcp://127.0.0.1:2376") == (
            f"no TLS with the Docker engine at tcp://127.0.0.1:2376: there is no {missing}; see DOCKER_CERT_PATH"
        )
