"""Daemons of a fleet that know each other by their certificates, which nobody else is shown."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from fleets import record

from discovery.admin.access import AccessSettings
from discovery.admin.port import AdminPort
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.codec import Record, decode
from discovery.fleet.announcement import Announcement, announcement_of
from discovery.fleet.asking import Answered, Asking
from discovery.fleet.settings import OWN_MACHINE
from discovery.fleet.trust import TrustSettings
from discovery.system.lookups import Lookups
from discovery.testing import eventually, free_port, within

ID = f"{1:016x}"
DOCUMENT = {"id": ID, "status": "ok", "ready": True, "backends": 7}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authorities of the fleet, and others."""
    directory = tmp_path_factory.mktemp("pki")
    ours, others = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(directory / "ca.pem")
    for name, ca, identity in (
        ("one", ours, "127.0.0.1"),
        ("two", ours, "127.0.0.1"),
        ("elsewhere", ours, "192.0.2.1"),
        ("stranger", others, "127.0.0.1"),
    ):
        leaf = ca.issue_cert(identity)
        (directory / f"{name}.key").touch(0o600)
        leaf.private_key_pem.write_to_path(directory / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
    return directory


def announced(port: int, scheme: str = "https") -> Announcement:
    value = json.dumps(record(port, machine="here", scheme=scheme)).encode()
    read = decode(f"daemons/{ID}", value)
    assert isinstance(read, Record), read
    return announcement_of(read.backend)


@asynccontextmanager
async def daemon(pki: Path, name: str, client_ca: str | None = "ca") -> AsyncIterator[int]:
    """The admin endpoint of a daemon with this certificate; yields its port."""
    authorities = pki / f"{client_ca}.pem" if client_ca is not None else None
    access = AccessSettings(cert=pki / f"{name}.pem", key=pki / f"{name}.key", client_ca=authorities).read()
    status = DaemonStatus("etcd://127.0.0.1:2379")
    port = AdminPort(Sources(lambda: status, daemon=lambda: DOCUMENT, access=lambda: access))
    number = free_port()
    await port.start("127.0.0.1", number)
    try:
        yield number
    finally:
        await port.close()


async def told(pki: Path, name: str | None, announcement: Announcement, *, trusts: bool = True) -> Answered:
    """Ask in the name of a daemon with this certificate."""
    cert, key = (pki / f"{name}.pem", pki / f"{name}.key") if name is not None else (None, None)
    tls = TrustSettings(pki / "ca.pem" if trusts else None, cert, key).context()
    asking = Asking("here", OWN_MACHINE, Lookups(1), within(10), tls=tls)
    return (await asking.ask(announcement, [ID]))[ID]


async def test_daemons_know_each_other_by_their_certificates(pki: Path) -> None:
    async with daemon(pki, "one") as port:
        answered = await told(pki, "two", announced(port))
        assert answered.told is not None, answered.reason
        assert answered.told["backends"] == 7
        stranger = await told(pki, "stranger", announced(port))
        assert stranger.told is None
        nobody = await told(pki, None, announced(port))
        assert str(nobody.reason).startswith("it asks for a token, and this daemon has none")
        untrusting = await told(pki, "two", announced(port), trusts=False)
        assert str(untrusting.reason).startswith("it is asked by https, and this daemon trusts no authorities")
        plain = await told(pki, "two", announced(port, "http"))
        assert str(plain.reason).startswith("it is asked without TLS and without a token")


@pytest.mark.parametrize("name", ["elsewhere", "stranger"])
async def test_a_certificate_of_another_name_or_other_authorities_is_not_believed(pki: Path, name: str) -> None:
    async with daemon(pki, name, None) as port:
        answered = await told(pki, "two", announced(port))
    assert answered.told is None
    assert str(answered.reason).startswith("TLS: ")


@pytest.mark.parametrize(
    ("name", "shown"), [("one", True), ("elsewhere", False), ("stranger", False)], ids=["right", "name", "authorities"]
)
async def test_our_certificate_is_shown_to_a_proven_server_alone(pki: Path, name: str, shown: bool) -> None:
    """A server that asks for it has an alert in its place: what comes after the server's own certificate is short."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{name}.pem", pki / f"{name}.key")
    context.load_verify_locations(pki / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    ours = ssl.PEM_cert_to_DER_cert((pki / "two.pem").read_text())
    seen: list[tuple[bytes | None, int]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        after, has_answered, certificate = 0, False, None
        while True:
            try:
                tls.do_handshake()
                certificate = tls.getpeercert(binary_form=True)
                break
            except ssl.SSLWantReadError:
                if some := outgoing.read():
                    writer.write(some)
                    has_answered = True
                received = await reader.read(65536)
                after += len(received) if has_answered else 0
                incoming.write(received)
                if not received:
                    break
            except ssl.SSLError:
                break
        seen.append((certificate, after))
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        answered = await told(pki, "two", announced(server.sockets[0].getsockname()[1]))
        await eventually(lambda: seen, timeout=60)
    assert answered.told is None
    told_apart = {(certificate, after > len(ours)) for certificate, after in seen}  # the request may be sent again
    assert told_apart == {(ours if shown else None, shown)}
