"""A refused bind or certificate: every other port is open, the offender serves in its accepted form."""

import os
import shutil
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from haproxy_driver import ConsumerDriver, Drive, haproxy_processes, wait_until_served
from haproxy_web import Fetch
from sampling import sampled

from discovery import Backend
from discovery.testing import backend, eventually_sync, free_port

Origins = tuple[Backend, ...]
WriteCertificate = Callable[[Path, str], None]


def of(service: str, origin: Backend) -> Backend:
    return backend(service=service, id=f"{service}-{origin.port}", port=origin.port)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return the path of a PEM file, which `write_certificate` writes."""
    return tmp_path / "web.pem"


@pytest.fixture
def write_certificate() -> WriteCertificate:
    """Return a function that writes a self-signed certificate for a name, with its key, to a PEM file."""
    authority = trustme.CA()

    def write(path: Path, name: str) -> None:
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(path)

    return write


def served_name(bind: str) -> str:
    """Return the name of the certificate that is served at the address."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, _, port = bind.rpartition(":")
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain) as client:
        data = client.getpeercert(binary_form=True)
    assert data is not None
    return next(name for name in ("first.example", "second.example") if name.encode() in data)


def services(web: str, api: str, certificate: Path) -> dict[str, object]:
    tls = {"address": web, "certificate": str(certificate)}
    return {"web": {"bind": tls, "check": False}, "api": {"bind": api, "check": False}}


def binds() -> tuple[str, str]:
    return f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"


async def test_a_broken_renewal_leaves_the_accepted_certificate_and_registry_changes_apply(
    drive: Drive, fetch: Fetch, origins: Origins, certificate: Path, write_certificate: WriteCertificate
) -> None:
    web, api = binds()
    write_certificate(certificate, "first.example")
    async with drive(services=services(web, api, certificate)) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        certificate.write_text("not a certificate\n")
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        await wait_until_served(fetch, api, origins[1])
        assert served_name(web) == "first.example"
        health = await driver.consumer.health()
        assert f"bind {web} of 'web' refused, kept in its last accepted form" in health.detail
        copies = list(driver.state_dir.rglob("web.pem"))
        assert [path.stat().st_mode & 0o777 for path in copies] == [0o600]
        assert driver.state_dir.stat().st_mode & 0o777 == 0o700
        write_certificate(certificate, "second.example")
        await driver.apply(of("web", origins[2]), of("api", origins[2]))
        await wait_until_served(fetch, api, origins[2])
        assert served_name(web) == "second.example"
        assert (await driver.consumer.health()).ok
        assert len(list(driver.state_dir.rglob("web.pem"))) == 1


async def test_a_broken_file_in_a_directory_of_certificates_leaves_the_accepted_directory(
    drive: Drive, fetch: Fetch, origins: Origins, tmp_path: Path, write_certificate: WriteCertificate
) -> None:
    web, api = binds()
    directory = tmp_path / "certificates"
    directory.mkdir()
    write_certificate(directory / "a.pem", "first.example")
    async with drive(services=services(web, api, directory)) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        (directory / "b.pem").write_text("not a certificate\n")
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        await wait_until_served(fetch, api, origins[1])
        assert served_name(web) == "first.example"
        assert f"bind {web} of 'web' refused, kept in its last accepted form" in (await driver.consumer.health()).detail
        (directory / "b.pem").unlink()
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        assert (await driver.consumer.health()).ok


async def test_a_start_with_a_broken_certificate_opens_every_port(
    drive: Drive, fetch: Fetch, origins: Origins, run_dir: Path, certificate: Path, write_certificate: WriteCertificate
) -> None:
    web, api = binds()
    write_certificate(certificate, "first.example")
    async with drive(services=services(web, api, certificate)) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
    certificate.write_text("not a certificate\n")
    remove_contents(run_dir)  # as a reboot does
    async with drive(services=services(web, api, certificate)) as driver:
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        await wait_until_served(fetch, api, origins[1])
        assert served_name(web) == "first.example"


def lose(state: Path) -> None:
    shutil.rmtree(state)


def damage_record(state: Path) -> None:
    next(state.rglob("accepted.json")).write_text('{"version": 1, "config": {"ser')


def damage_copy(state: Path) -> None:
    next(state.rglob("web.pem")).write_text("no longer what was accepted\n")


@pytest.mark.parametrize("harm", sampled([lose, damage_record, damage_copy]))
async def test_a_lost_or_damaged_record_counts_as_missing(
    drive: Drive,
    fetch: Fetch,
    origins: Origins,
    certificate: Path,
    write_certificate: WriteCertificate,
    harm: Callable[[Path], None],
) -> None:
    web, api = binds()
    write_certificate(certificate, "first.example")
    async with drive(services=services(web, api, certificate)) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
    harm(driver.state_dir)
    certificate.write_text("not a certificate\n")
    async with drive(services=services(web, api, certificate)) as driver:
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        await wait_until_served(fetch, api, origins[1])
        assert not accepts(web)
        assert f"bind {web} of 'web' refused, closed" in (await driver.consumer.health()).detail
        write_certificate(certificate, "second.example")
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        assert served_name(web) == "second.example"
        assert (await driver.consumer.health()).ok


async def test_a_record_is_not_written_again_without_a_change(
    drive: Drive, origins: Origins, certificate: Path, write_certificate: WriteCertificate
) -> None:
    web, api = binds()
    write_certificate(certificate, "first.example")
    for _ in range(2):
        async with drive(services=services(web, api, certificate)) as driver:
            await driver.apply(of("web", origins[0]), of("api", origins[0]))
            before = written(driver)
            await driver.apply(of("web", origins[1]), of("api", origins[1]))
            assert written(driver) == before
    async with drive(services=services(web, api, certificate)) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        assert written(driver) == before


def written(driver: ConsumerDriver) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in driver.state_dir.rglob("*") if path.is_file()}


async def test_an_address_that_another_process_holds_is_closed_and_the_accepted_address_stays(
    drive: Drive, fetch: Fetch, origins: Origins
) -> None:
    web, api = binds()
    plain = {"web": {"bind": web, "check": False}, "api": {"bind": api, "check": False}}
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        held = f"127.0.0.1:{stranger.getsockname()[1]}"
        async with drive(services=plain) as driver:
            await driver.apply(of("web", origins[0]), of("api", origins[0]))
            moved = {**plain, "web": {"bind": held, "check": False}}
            assert await driver.consumer.reconfigure(driver.configured(services=moved))
            await driver.apply(of("web", origins[1]), of("api", origins[1]))
            await wait_until_served(fetch, api, origins[1])
            await wait_until_served(fetch, web, origins[1])
            assert f"bind {held} of 'web' refused" in (await driver.consumer.health()).detail
            assert not await driver.is_apply_requested()
            stranger.close()
            await driver.consumer.health()
            assert await driver.is_apply_requested()
            await driver.apply_again()
            await wait_until_served(fetch, held, origins[1])
            assert not accepts(web)
            assert (await driver.consumer.health()).ok


async def test_a_start_with_a_held_address_opens_every_other(drive: Drive, fetch: Fetch, origins: Origins) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        held, api = f"127.0.0.1:{stranger.getsockname()[1]}", f"127.0.0.1:{free_port()}"
        async with drive(services={"web": {"bind": held}, "api": {"bind": api}}) as driver:
            await driver.apply(of("web", origins[0]), of("api", origins[0]))
            await wait_until_served(fetch, api, origins[0])
            assert f"bind {held} of 'web' refused, closed" in (await driver.consumer.health()).detail


def accepts(bind: str) -> bool:
    host, _, port = bind.rpartition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def remove_contents(run_dir: Path) -> None:
    """Kill what runs in a run directory, and empty the run directory."""
    for process in haproxy_processes(run_dir):
        os.kill(process.pid, signal.SIGKILL)
    eventually_sync(lambda: not haproxy_processes(run_dir), "no HAProxy to be left")
    for path in run_dir.iterdir():
        path.unlink()
