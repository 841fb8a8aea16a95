"""TLS and mTLS of the xDS port, and its certificates that are replaced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from xds_authority import Authority
from xds_clients import Kind
from xds_driving import Driven, driving, raw_client

from discovery import Snapshot, Update, diff
from discovery.testing import backend, eventually


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    """A CA of the test's own."""
    return Authority(tmp_path)


@pytest.mark.parametrize("mutual", [False, True])
async def test_clients_with_the_right_certificates_are_served(mutual: bool, authority: Authority) -> None:
    async with driving(**authority.options(mutual=mutual)) as driven:
        await driven.apply(backend())
        async with raw_client(driven.address, credentials=authority.credentials(mutual=mutual)) as client:
            assert (await client.ask_and_read(Kind.CLUSTER)).resources


@pytest.mark.parametrize("encrypted", [False, True])
async def test_clients_without_a_certificate_are_refused(encrypted: bool, authority: Authority) -> None:
    async with driving(**authority.options(mutual=True)) as driven:
        await driven.apply(backend())
        credentials = authority.credentials(mutual=False) if encrypted else None
        async with raw_client(driven.address, credentials=credentials) as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.ask_and_read(Kind.CLUSTER)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert driven.figure("streams") == 0


async def test_a_new_certificate_is_used_for_new_connections(authority: Authority, tmp_path: Path) -> None:
    async with driving(**authority.options(mutual=False)) as driven:
        await driven.apply(backend())
        (tmp_path / "next").mkdir()
        other = Authority(tmp_path / "next")
        for suffix in ("key", "crt"):
            other.file("server", suffix).replace(authority.file("server", suffix))

        async def served() -> bool:
            async with raw_client(driven.address, credentials=other.credentials(mutual=False)) as client:
                return bool((await client.ask_and_read(Kind.CLUSTER)).resources)

        await eventually(served)
        authority.file("server", "key").write_bytes(b"no key")
        assert await served()  # with the certificate of before
        health = await driven.consumer.health()
        assert health.state == "degraded"
        assert "the certificate of before is in use" in health.problems["tls"]
        assert "no key" not in str(health.problems).replace("server.key", "")
        authority.issue("server")
        assert (await driven.consumer.health()).state == "ok"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda each: each.file("server", "key").unlink(), "server.key cannot be read: No such file"),
        (lambda each: each.file("server", "crt").write_text("x"), "are no certificate and its key"),
        (lambda each: each.issue("server") or each.file("client", "key").replace(each.file("server", "key")), "are no"),
        (lambda each: each.ca_file.write_text("x"), "ca.pem has no certificate of a CA"),
    ],
    ids=["missing", "no certificate", "another key", "no ca"],
)
async def test_files_that_cannot_be_used_are_faults(spoil: Any, reason: str, authority: Authority) -> None:
    spoil(authority)
    driven = Driven(authority.directory / "edge", **authority.options(mutual=True))
    empty = Snapshot.of(0, ())
    validation = await driven.consumer.validate(Update(empty, None, diff(None, empty)))
    assert reason in " ".join(validation.faults)
    with pytest.raises(Exception, match=reason):
        await driven.consumer.setup()
    await driven.consumer.teardown()
