"""When certificates expire."""

from datetime import UTC, datetime, timedelta

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from discovery.certificates import expired, expiry

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
