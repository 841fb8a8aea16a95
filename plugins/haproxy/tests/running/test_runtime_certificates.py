"""Certificates that change in the running HAProxy, without a reload."""

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509 import ocsp
from haproxy_driver import ConsumerDriver, Drive, ways

from discovery import Backend
from discovery.testing import within
from discovery_haproxy.runtime_api.connection import connect

Origins = tuple[Backend, ...]


class Site:
    """A certificate file, and the certificate that a client is shown."""

    def __init__(self, path: Path, bind: str, name: str = "site.example") -> None:
        self.path = path
        self.bind = bind
        self.name = name
        self.authority = trustme.CA()
        self.issued: list[bytes] = []

    def issue(self) -> trustme.LeafCert:
        """Issue a certificate, and note it as the newest."""
        leaf = self.authority.issue_cert(self.name)
        self.issued.append(ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode()))
        return leaf

    def renew(self) -> None:
        """Replace the file by a new certificate with its key."""
        replace(self.path, self.issue().private_key_and_cert_chain_pem.bytes())

    async def shown(self) -> int:
        """Return the number of the issued certificate that a client is shown."""
        return self.issued.index(await asyncio.to_thread(handshake, self.bind, self.name))


def replace(path: Path, contents: bytes) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(contents)
    temporary.replace(path)


def handshake(bind: str, name: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities, which take long to load
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, _, port = bind.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=within(5)) as plain,
        context.wrap_socket(plain, server_hostname=name) as client,
    ):
        certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


@pytest.fixture
def site(tmp_path: Path, bind: str) -> Site:
    site = Site(tmp_path / "site.pem", bind)
    site.renew()
    return site


def serving(site: Site, **bind: object) -> dict[str, object]:
    return {"web": {"bind": {"address": site.bind, "certificate": str(site.path), **bind}, "check": False}}


async def test_a_renewed_certificate_is_live_without_a_reload(drive: Drive, origins: Origins, site: Site) -> None:
    async with drive(services=serving(site)) as driver:
        await driver.apply(origins[0])
        before = await driver.processes()
        for number in (1, 2, 3):
            site.renew()
            await asyncio.wait_for(driver.apply_requested.wait(), within(10))
            driver.apply_requested.clear()
            await driver.apply(origins[number])  # and another server in the same change
            assert await site.shown() == number
        assert await driver.processes() == before
        assert ways(driver) == {"runtime": 3, "reload": 0}
        assert driver.has_logged(f"new contents of {site.path}")
        assert not driver.has_logged("PRIVATE KEY")
        assert "PRIVATE" not in (driver.run_dir / "haproxy.cfg").read_text()


async def test_a_certificate_with_files_beside_it_is_renewed_as_haproxy_loads_it(
    drive: Drive, origins: Origins, site: Site
) -> None:
    def renew() -> None:
        leaf = site.issue()
        chain = b"".join(each.bytes() for each in leaf.cert_chain_pems)
        replace(site.path.with_name("site.pem.key"), leaf.private_key_pem.bytes())
        replace(site.path.with_name("site.pem.issuer"), site.authority.cert_pem.bytes())
        replace(site.path.with_name("site.pem.ocsp"), staple(site.authority, leaf))
        replace(site.path, chain.replace(b"\n", b"\r\n") + b"\n\nA remark.\n")

    renew()
    async with drive(services=serving(site)) as driver:
        await driver.apply(origins[0])
        for _ in range(2):
            renew()
            await driver.apply_again()
            assert await site.shown() == len(site.issued) - 1
            assert await is_stapled(driver, site)
        replace(site.path.with_name("site.pem.ocsp"), b"no answer")
        await driver.apply_again()  # HAProxy refuses it, and loads no other
        site.path.with_name("site.pem.ocsp").unlink()
        await driver.apply_again()
        assert await site.shown() == len(site.issued) - 1
        assert not await is_stapled(driver, site)
        assert ways(driver)["runtime"] >= 2


def staple(authority: trustme.CA, leaf: trustme.LeafCert) -> bytes:
    """Return an OCSP response for a certificate."""
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    now = datetime.now(UTC)
    response = ocsp.OCSPResponseBuilder().add_response(
        certificate, issuer, SHA1(), ocsp.OCSPCertStatus.GOOD, now, now + timedelta(days=1), None, None
    )
    responder = response.responder_id(ocsp.OCSPResponderEncoding.NAME, issuer)
    return responder.sign(key, SHA256()).public_bytes(serialization.Encoding.DER)


async def is_stapled(driver: ConsumerDriver, site: Site) -> bool:
    """Report whether HAProxy has an OCSP response for the certificate that HAProxy serves."""
    shown = await driver.control.send_once(f"@1 show ssl cert {site.path}", within(5))
    serial = x509.load_der_x509_certificate(site.issued[-1]).serial_number
    key = next(line for line in shown.splitlines() if line.startswith("OCSP Response Key"))
    return f"{serial:x}" in key and key.rpartition(" ")[2] in await driver.control.send_once(
        "@1 show ssl ocsp-response", within(5)
    )


async def test_a_directory_of_certificates_is_reloaded_only_for_another_set_of_files(
    drive: Drive, origins: Origins, tmp_path: Path, bind: str
) -> None:
    directory = tmp_path / "certificates"
    directory.mkdir()
    one, two = (Site(directory / f"{name}.pem", bind, f"{name}.example") for name in ("one", "two"))
    one.renew()
    async with drive(services={"web": {"bind": {"address": bind, "certificate": str(directory)}}}) as driver:
        await driver.apply(origins[0])
        one.renew()
        await driver.apply_again()
        assert await one.shown() == 1
        assert ways(driver) == {"runtime": 1, "reload": 0}
        two.renew()
        await driver.apply_again()
        assert await two.shown() == 0
        assert ways(driver) == {"runtime": 1, "reload": 1}
        one.renew()
        two.renew()
        await driver.apply_again()
        assert [await one.shown(), await two.shown()] == [2, 1]
        assert await asyncio.to_thread(handshake, bind, "unknown.example") == one.issued[-1]
        assert ways(driver) == {"runtime": 2, "reload": 1}


async def test_a_certificate_whose_name_another_has_keeps_its_place(
    drive: Drive, origins: Origins, tmp_path: Path, site: Site, bind: str
) -> None:
    other = Site(tmp_path / "other.pem", bind)
    other.renew()
    certificates = [str(site.path), str(other.path)]
    async with drive(services={"web": {"bind": {"address": bind, "certificate": certificates}}}) as driver:
        await driver.apply(origins[0])
        site.renew()
        await driver.apply_again()
        assert await site.shown() == 1
        assert ways(driver) == {"runtime": 0, "reload": 1}
        assert driver.has_logged("another certificate has the name site.example")


@pytest.mark.costly
async def test_a_key_that_does_not_fit_leaves_the_accepted_certificate(
    drive: Drive, origins: Origins, site: Site
) -> None:
    async with drive(services=serving(site)) as driver:
        await driver.apply(origins[0])
        chain = b"".join(each.bytes() for each in site.issue().cert_chain_pems)
        replace(site.path, site.authority.issue_cert("site.example").private_key_pem.bytes() + chain)
        await driver.apply(origins[1])
        assert await site.shown() == 0
        assert not (await driver.consumer.health()).ok
        [report] = (await driver.consumer.inspect())["refused"]
        assert (report["part"], report["state"]) == (f"bind {site.bind} of 'web'", "kept in its last accepted form")
        assert "inconsistencies between private key and certificate" in report["reason"]
        site.renew()
        await driver.apply(origins[2])
        assert await site.shown() == 2
        assert (await driver.consumer.health()).ok
        site.renew()
        await driver.apply(origins[2])
        assert await site.shown() == 3
        assert ways(driver)["runtime"] == 1
        assert not driver.has_logged("PRIVATE KEY")


async def test_a_change_that_another_program_has_begun_is_not_mixed_with_a_renewal(
    drive: Drive, origins: Origins, tmp_path: Path, site: Site, bind: str
) -> None:
    other = Site(tmp_path / "other.pem", bind, "other.example")
    other.renew()
    certificates = [str(site.path), str(other.path)]
    async with drive(services={"web": {"bind": {"address": bind, "certificate": certificates}}}) as driver:
        await driver.apply(origins[0])
        begun = other.issue().private_key_and_cert_chain_pem.bytes().decode()
        async with connect(driver.run_dir / "stats.sock") as connection:
            assert "Transaction created" in await connection.ask(f"set ssl cert {other.path} <<\n{begun}")
        site.renew()
        await driver.apply_again()
        assert [await site.shown(), await other.shown()] == [1, 0]
        site.renew()
        await driver.apply_again()
        assert [await site.shown(), await other.shown()] == [2, 0]
        assert ways(driver) == {"runtime": 1, "reload": 1}


async def test_a_certificate_of_an_own_template_is_renewed_at_run_time(
    drive: Drive, origins: Origins, tmp_path: Path, site: Site
) -> None:
    template = tmp_path / "mine.cfg.j2"
    template.write_text(
        '{% extends "builtin/haproxy.cfg.j2" %}\n'
        "{% block service %}\n{{ super() | raw }}\n    option http-server-close\n{% endblock %}\n"
    )
    async with drive(services=serving(site), template=template) as driver:
        await driver.apply(origins[0])
        site.renew()
        await driver.apply_again()
        assert await site.shown() == 1
        assert ways(driver) == {"runtime": 1, "reload": 0}
