"""The etcd registry with users and over TLS: what is renewed, what is refused, and how that is said."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trustme
from etcds import etcd, following_from_the_start, opened

from discovery.errors import AccessDeniedError
from discovery.registry import Delta, RegistryURL, Reset
from discovery.registry.etcd import EtcdSettings, Timing
from discovery.registry.etcd.client import Client
from discovery.registry.etcd.watch import Watch
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import backend, contents, following, require_program, within
from discovery.testing.etcd import EtcdWriter

__all__ = ["etcd"]

KEY = backend().key


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedEtcd]:
    """Users root, `reader` (may read /services*) and `writer` (may write it too); tokens last seconds."""
    require_program("etcd")
    require_program("etcdctl")
    with EmbeddedEtcd("--auth-token-ttl", "2") as etcd:
        for role, kind in (("reader", "read"), ("writer", "readwrite")):
            etcd.ctl("role", "add", role)
            etcd.ctl("role", "grant-permission", "--prefix=true", role, kind, "/services")
            etcd.ctl("user", "add", f"{role}:pass-{role}")
            etcd.ctl("user", "grant-role", role, role)
        etcd.ctl("user", "add", "root:root")
        etcd.ctl("user", "grant-role", "root", "root")
        etcd.ctl("auth", "enable")
        yield etcd


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    for name, identities in (("server", ["127.0.0.1", "localhost", "etcd.test"]), ("client", ["client@etcd.test"])):
        leaf = ca.issue_cert(*identities)
        leaf.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
        leaf.private_key_pem.write_to_path(directory / f"{name}-key.pem")
    trustme.CA().cert_pem.write_to_path(directory / "other-ca.pem")
    return directory


@pytest.fixture(scope="module")
def secured(pki: Path) -> Iterator[EmbeddedEtcd]:
    require_program("etcd")
    certificate = ("--cert-file", str(pki / "server.pem"), "--key-file", str(pki / "server-key.pem"))
    trust = ("--client-cert-auth", "--trusted-ca-file", str(pki / "ca.pem"))
    with EmbeddedEtcd(*certificate, *trust, scheme="https") as etcd:
        yield etcd


class TestUsers:
    @pytest.mark.costly
    async def test_a_token_that_expires_is_renewed(self, guarded: EmbeddedEtcd) -> None:
        async with (
            EtcdWriter(login(guarded, "writer")) as writer,
            opened(login(guarded, "reader")) as registry,
            following(registry) as follower,
        ):
            await writer.change({"web/a": b"1"})
            await follower.sees("web/a", b"1")
            token = writer.client.tokens._token
            await asyncio.sleep(4)  # twice the life of a token, which only time ends
            await writer.change({}, "web/a")
            assert writer.client.tokens._token != token
            await follower.sees("web/a", None)
            assert await contents(registry) == {}

    async def test_a_watch_refused_for_its_token_is_opened_with_another(self, guarded: EmbeddedEtcd) -> None:
        settings = EtcdSettings.from_url(RegistryURL.parse(login(guarded, "reader")))
        client = Client(settings)
        events = Watch(client, settings.prefix, Timing()).events()
        async with EtcdWriter(login(guarded, "writer")) as writer:
            assert isinstance(await anext(events), Reset)
            # The listing was read with the token; the watch, opened when more is asked for, comes too late.
            client.tokens._token = "expired.1"
            revision = await writer.change({"web/token": b"1"})
            assert await anext(events) == Delta(revision, {"web/token": b"1"})
            await writer.change({}, "web/token")
        await events.aclose()

    async def test_a_lease_outlives_its_tokens(self, guarded: EmbeddedEtcd) -> None:
        async with opened(login(guarded, "writer")) as registry, following(registry) as follower:
            lease = await registry.open_lease("host-1", 9)
            await lease.put(backend())
            lost = asyncio.ensure_future(lease.lost())
            await asyncio.sleep(6.5)  # two keep-alives, each with a token that has expired
            assert not lost.done()
            await lease.close()
            await follower.lists()

    @pytest.mark.parametrize(
        ("user", "words"),
        [
            ("writer:wrong-one", "wrong user or password"),
            ("nobody:wrong-one", "wrong user or password"),
            ("", "asks for a user and a password"),
        ],
    )
    async def test_a_refused_login_is_said_and_tried_again(self, guarded: EmbeddedEtcd, user: str, words: str) -> None:
        url = f"etcd://{user + '@' if user else ''}{guarded.endpoint}"
        async with opened(url) as registry:
            with pytest.raises(AccessDeniedError, match=words):
                await (await registry.open_lease("host-1", 2)).put(backend())
            async with following_from_the_start(registry) as follower:
                await follower.until(lambda: follower.stale, "Stale")
                assert words in (follower.stale or "")
                assert "wrong-one" not in (follower.stale or "")
                assert follower.records is None

    async def test_a_corrected_password_ends_the_outage(self, guarded: EmbeddedEtcd, tmp_path: Path) -> None:
        file = tmp_path / "password"
        file.write_text("not yet")
        url = f"etcd://reader@{guarded.endpoint}?password_file={file}"
        async with opened(url) as registry, following_from_the_start(registry) as follower:
            await follower.until(lambda: follower.stale, "Stale")
            file.write_text("pass-reader\n")
            await follower.until(lambda: follower.records == {}, "the listing")

    async def test_what_is_not_permitted_is_said(self, guarded: EmbeddedEtcd) -> None:
        async with opened(login(guarded, "reader")) as registry:
            lease = await registry.open_lease("host-1", 5)
            with pytest.raises(AccessDeniedError, match="permission denied"):
                await lease.put(backend())
            await lease.close()
        async with (
            opened(f"{login(guarded, 'reader')}/elsewhere") as elsewhere,
            following_from_the_start(elsewhere) as follower,
        ):
            await follower.until(lambda: follower.stale, "Stale")
            assert "permission denied" in (follower.stale or "")

    async def test_a_login_where_none_is_asked_for_does_no_harm(self, etcd: EmbeddedEtcd) -> None:
        async with opened(f"etcd://any:one@{etcd.endpoint}/nothing") as registry:
            assert await contents(registry) == {}


class TestTLS:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    async def test_both_sides_show_certificates(self, secured: EmbeddedEtcd, pki: Path, host: str) -> None:
        url = f"etcds://{host}:{secured.port}?ca={pki}/ca.pem&cert={pki}/client.pem&key={pki}/client-key.pem"
        async with EtcdWriter(url) as writer, opened(url) as registry, following(registry) as follower:
            await writer.change({"web/a": b"1"})
            await follower.sees("web/a", b"1")
            lease = await registry.open_lease("host-1", within(2))
            await lease.put(backend())
            await follower.lists("web/a", KEY)
            await lease.close()
            await follower.lists("web/a")

    @pytest.mark.parametrize(
        ("scheme", "options", "words"),
        [
            ("etcds", "ca={pki}/other-ca.pem&cert={pki}/client.pem&key={pki}/client-key.pem", "ca=FILE"),
            ("etcds", "ca={pki}/ca.pem", "cert"),
            ("etcds", "ca={pki}/ca.pem&cert={pki}/client.pem&key={pki}/client-key.pem&server_name=x", "server_name="),
            ("etcd", "", "etcds://"),
        ],
        ids=["wrong authority", "no certificate", "wrong name", "no TLS"],
    )
    async def test_a_wrong_setting_is_told_with_the_way_out(
        self, secured: EmbeddedEtcd, pki: Path, scheme: str, options: str, words: str
    ) -> None:
        url = f"{scheme}://{secured.endpoint}?{options.format(pki=pki)}"
        async with opened(url) as registry, following_from_the_start(registry) as follower:
            await follower.until(lambda: follower.stale, "Stale")
            assert words in (follower.stale or "")

    async def test_tls_to_a_server_without_it_is_told(self, etcd: EmbeddedEtcd) -> None:
        async with opened(f"etcds://{etcd.endpoint}") as registry, following_from_the_start(registry) as follower:
            await follower.until(lambda: follower.stale, "Stale")
            assert "write etcd://" in (follower.stale or "")

    @pytest.mark.costly
    async def test_replaced_files_are_used_without_a_restart(
        self, secured: EmbeddedEtcd, pki: Path, tmp_path: Path
    ) -> None:
        for name in ("client.pem", "client-key.pem"):
            (tmp_path / name).write_bytes((pki / name).read_bytes())
        ca = tmp_path / "ca.pem"
        ca.write_bytes((pki / "other-ca.pem").read_bytes())
        url = f"{secured.url}?ca={ca}&cert={tmp_path}/client.pem&key={tmp_path}/client-key.pem"
        with structlog.testing.capture_logs() as log:
            async with opened(url) as registry, following_from_the_start(registry) as follower:
                opening = asyncio.ensure_future(registry.open_lease("host-1", 2))
                await follower.until(lambda: follower.stale, "Stale")
                assert not opening.done()
                ca.write_bytes((pki / "ca.pem").read_bytes())
                await follower.until(lambda: follower.records is not None, "the listing")
                await (await opening).close()
        assert any("certificate reloaded: trustme" in each["event"] for each in log)  # point 5


def login(etcd: EmbeddedEtcd, user: str) -> str:
    return f"etcd://{user}:pass-{user}@{etcd.endpoint}"
