"""When certificates expire."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from discovery.registry import RegistryURL
from discovery.registry.etcd import EtcdRegistry
from discovery.system.certificates import expired, expiry
from discovery.testing import free_port

AUTHORITY = trustme.CA()
WHOLE = AUTHORITY.issue_cert("etcd.test", not_after=datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC))


@pytest.mark.parametrize("year", [1999, 2026, 2049, 2050, 2999])
def test_of_the_first_in_a_chain(year: int) -> None:
    """Before 2050 the year has two digits in a certificate."""
    end = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    leaf = AUTHORITY.issue_cert("etcd.test", not_before=end - timedelta(days=1), not_after=end)
    chain = b"".join(pem.bytes() for pem in (*leaf.cert_chain_pems, AUTHORITY.cert_pem))
    assert expiry(leaf.private_key_pem.bytes() + chain) == end
    assert expired(chain) == (f"{year}-12-31 23:59:58 UTC" if end < datetime.now(UTC) else None)


@given(st.integers(0, 1500), st.binary(max_size=4))
def test_what_is_no_certificate_has_none(at: int, junk: bytes) -> None:
    pem = WHOLE.cert_chain_pems[0].bytes()
    expiry(pem[:at] + junk + pem[at + 1 :])
    assert expiry(junk) is None
    assert expired(None) is None


async def test_the_alarm_of_an_expired_certificate_needs_no_answer_of_a_member(tmp_path: Path) -> None:
    """A member that is asked again refuses the certificate, so that it tells of no alarm."""
    now = datetime.now(UTC)
    leaf = AUTHORITY.issue_cert("client.test", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1))
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    files = f"ca={tmp_path}/ca.pem&cert={tmp_path}/client.pem&key={tmp_path}/key.pem"

    registry = EtcdRegistry.from_url(RegistryURL.parse(f"etcds://127.0.0.1:{free_port()}?{files}"))
    try:
        [alarm] = await registry.alarms()
    finally:
        await registry.close()
    assert f"{tmp_path}/client.pem expired on" in alarm
