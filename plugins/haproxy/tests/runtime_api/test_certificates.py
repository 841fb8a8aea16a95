"""Commands for new contents of certificates, without HAProxy."""

import pytest
import trustme

from discovery_haproxy.runtime_api.certificates import (
    ShownCertificate,
    UnfitError,
    new_certificate,
    parse_list,
    parse_shown,
    shared_name,
)

PATH = "/etc/ssl/site.pem"


@pytest.fixture(scope="module")
def leaf() -> trustme.LeafCert:
    """Return a certificate with its key."""
    return trustme.CA().issue_cert("site.example")


def payloads(files: dict[str, bytes]) -> dict[str, str]:
    """Return the payloads by the first line of their commands."""
    return {command.text: command.payload for command in new_certificate(PATH, files).commands}


def test_a_payload_has_the_items_of_the_files_without_what_ends_a_payload(leaf: trustme.LeafCert) -> None:
    key, chain = leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes()
    text = b"Remark; of <<\r\n\r\n" + chain.replace(b"\n", b"\r\n") + b"\n\n" + key.rstrip()
    expected = {f"set ssl cert {PATH} <<": (chain + key).decode(), f"commit ssl cert {PATH}": ""}
    assert payloads({"": text}) == expected
    assert payloads({"": chain, ".key": key}) == expected
    assert payloads({"": chain + key, ".key": b"another, which HAProxy does not load"}) == expected
    assert payloads({"": text, ".ocsp": b"\x00;\n"}) == {**expected, f"set ssl cert {PATH}.ocsp <<": "ADsK\n"}
    assert "\n\n" not in payloads({"": text})[f"set ssl cert {PATH} <<"]


def test_a_private_key_is_not_shown(leaf: trustme.LeafCert) -> None:
    new = new_certificate(PATH, {"": leaf.private_key_and_cert_chain_pem.bytes()})
    assert "PRIVATE" not in repr(new)
    assert "PRIVATE" in new.commands[0].lines


PARTS = b"-----BEGIN CERTIFICATE-----\nMII=\n\nMII=\n-----END CERTIFICATE-----\n"
ENCRYPTED = b"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMII=\n-----END EC PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"": b"not a certificate"}, "no certificate with exactly one private key"),
        ({"": b"[chain]"}, "no certificate with exactly one private key"),
        ({"": b"[key]"}, "no certificate with exactly one private key"),
        ({"": b"[chain][key][key]"}, "no certificate with exactly one private key"),
        ({"": b"[chain][key]", ".sctl": b""}, "cannot carry an .sctl file"),
        ({"": b"[chain][key]" + b"[chain]" * 30}, "more than 15000 bytes"),
        ({"": b"[chain][key]\xff"}, "not a text"),
        ({"": b"[chain]" + ENCRYPTED}, "not in the usual form"),
        ({"": b"[chain][key]" + PARTS}, "not in the usual form"),
    ],
)
def test_contents_that_commands_cannot_carry(leaf: trustme.LeafCert, files: dict[str, bytes], reason: str) -> None:
    chain, key = leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()
    given = {suffix: data.replace(b"[chain]", chain).replace(b"[key]", key) for suffix, data in files.items()}
    with pytest.raises(UnfitError, match=reason) as caught:
        new_certificate(PATH, given)
    assert "PRIVATE" not in str(caught.value)


def test_a_name_that_another_certificate_with_the_same_kind_of_key_has_is_found() -> None:
    def shown(names: str, kind: str) -> ShownCertificate:
        answer = f"Filename: /x.pem\nStatus: Used\nSubject Alternative Name: {names}\nAlgorithm: {kind}\n"
        found = parse_shown(f"{answer}SHA1 FingerPrint: AB\nSubject: /O=x/CN=Common.example\nIssuer: /CN=y\n\n")
        assert found is not None
        return found

    new = shown("DNS:a.example, DNS:*.b.example, IP Address:10.0.0.1", "EC256")
    assert new.names == {"a.example", "*.b.example", "common.example"}
    assert shared_name(new, [shown("DNS:A.example", "RSA2048")]) == ""
    assert shared_name(new, [shown("DNS:A.example", "EC384")]) == "a.example"
    assert parse_shown("Can't display the certificate: Not found or the certificate is a bundle!\n") is None
    assert parse_list("# transaction\n*/a.pem\n# filename\n/a.pem\n/b.pem\n") == ("/a.pem", "/b.pem")
