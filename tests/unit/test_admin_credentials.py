"""The token of the admin endpoint: its rules, and the proof of it that does not reveal it."""

from pathlib import Path

import pytest

from discovery import ConfigError
from discovery.admin import credentials
from discovery.admin.access import Access, AccessSettings, check_exposure, is_loopback, read_token
from discovery.admin.attempts import DELAY, LOG_SECONDS, MOST_DELAYED, Attempts
from discovery.admin.credentials import Challenges

TOKEN = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32


@pytest.mark.parametrize("text", [TOKEN, f"{TOKEN}\n", f"  {TOKEN}\r\n", "a.b_c~d+e/f=" * 4])
def test_a_token_is_a_line(text: str) -> None:
    assert credentials.token_of(text) == text.strip()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("\n", "it is empty"),
        ("short-secret", "it has 12 characters, not 32 to 512"),
        ("x" * 513, "it has 513 characters"),
        (f"{TOKEN}\n{TOKEN}", "no line"),
        (f"{TOKEN} secret-word", "no line"),
        (f'"{TOKEN}"', "no line"),
    ],
)
def test_a_text_that_is_no_token_is_refused_and_not_told(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=why) as refused:
        read_token("admin_token_file", path)
    assert str(refused.value).startswith(f"admin_token_file: {path} holds no token: ")
    assert "openssl rand" in str(refused.value)
    assert not any(word and word in str(refused.value) for word in text.split())


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o601, 0o666])
def test_a_file_that_others_can_read_or_write_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"its mode is {mode:04o}\): chmod 0640"):
        AccessSettings(path).read()
    path.chmod(0o640)
    assert AccessSettings(path).read() == Access(TOKEN)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    for name in ("binary", "large"):
        (tmp_path / name).chmod(0o600)
    whys = {
        "none": "cannot be read: no such file",
        "fifo": "no regular file",
        "binary": "no text of ASCII",
        "large": "more than",
    }
    for name, why in whys.items():
        with pytest.raises(ConfigError, match=why):
            read_token("admin_token_file", tmp_path / name)


def test_what_is_kept_of_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(Access(TOKEN))
    assert TOKEN not in str(Access(TOKEN))
    assert TOKEN not in repr(credentials.prove(TOKEN, "n", "GET", "/", "a:1"))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.255.0.3", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST."],
)
def test_loopback_needs_no_credentials(host: str) -> None:
    assert is_loopback(host)
    check_exposure([host], AccessSettings())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "example.org", "localhost.evil.org"])
def test_other_addresses_need_credentials(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="admin_token_file") as refused:
        check_exposure(["127.0.0.1", host], AccessSettings())
    for way_out in (host, "--admin-token-file", "127.0.0.1", 'admin = "off"'):
        assert way_out in str(refused.value)
    check_exposure([host], AccessSettings(Path("token")))


def test_a_proof_is_of_one_request_to_one_address() -> None:
    proof = credentials.prove(TOKEN, "nonce.1", "GET", "/api/status?a=1", "10.0.0.1:9901")
    read = credentials.proof_of(proof.header)
    assert read == proof
    right = ("GET", "/api/status?a=1", "10.0.0.1:9901")
    assert credentials.is_proven(TOKEN, proof, *right)
    assert not credentials.is_proven(OTHER, proof, *right)
    for wrong in (("HEAD", *right[1:]), ("GET", "/api/status?a=2", right[2]), (*right[:2], "10.0.0.2:9901")):
        assert not credentials.is_proven(TOKEN, proof, *wrong)
    for changed in (proof._replace(nonce="nonce.2"), proof._replace(client="x"), proof._replace(mac="")):
        assert not credentials.is_proven(TOKEN, changed, *right)
    assert TOKEN not in proof.header


def test_an_answer_is_proven_with_its_status_and_body() -> None:
    proof = credentials.prove(TOKEN, "nonce", "GET", "/", "a:1")
    header = credentials.answer_header(TOKEN, proof, 200, b"{}")
    assert credentials.answer_is_proven(TOKEN, proof, 200, b"{}", header)
    for status, body, told in (
        (503, b"{}", header),
        (200, b"{ }", header),
        (200, b"{}", ""),
        (200, b"{}", header[:-9]),
    ):
        assert not credentials.answer_is_proven(TOKEN, proof, status, body, told)
    assert not credentials.answer_is_proven(OTHER, proof, 200, b"{}", header)
    mirrored = f'{credentials.SCHEME} mac="{proof.mac}"'  # of our own request
    assert not credentials.answer_is_proven(TOKEN, proof, 200, b"{}", mirrored)


def test_a_challenge_is_of_its_server_and_for_a_while() -> None:
    ours, others = Challenges(), Challenges()
    nonce = ours.issue(100.0)
    assert credentials.nonce_of(f'Bearer realm="discovery", {credentials.challenge(nonce)}') == nonce
    assert ours.is_fresh(nonce, 100.0 + credentials.PROOF_SECONDS - 0.1)
    assert not ours.is_fresh(nonce, 100.0 + credentials.PROOF_SECONDS + 0.1)
    assert not others.is_fresh(nonce, 100.0)
    for forged in ("", "1.x", nonce.replace("1", "2"), f"9{nonce}", nonce[:-1], "\udcff.x.y"):
        assert not ours.is_fresh(forged, 100.0)
    assert ours.issue(100.0) != nonce


@pytest.mark.parametrize(
    "header",
    ["", "Bearer x", credentials.SCHEME, f"{credentials.SCHEME} nonce=1", f'{credentials.SCHEME} nonce="a", mac="b"'],
)
def test_what_is_no_proof_is_none(header: str) -> None:
    assert credentials.proof_of(header) is None


def test_wrong_attempts_are_delayed_and_few_wait() -> None:
    attempts = Attempts()
    for _ in range(MOST_DELAYED):
        assert attempts.begin() == DELAY
    assert attempts.begin() is None
    attempts.end()
    assert attempts.begin() == DELAY


def test_wrong_attempts_of_a_client_are_a_line_a_minute() -> None:
    attempts = Attempts()
    assert [attempts.line("10.0.0.1", float(at)) for at in range(60)] == [1, *[0] * 59]
    assert attempts.line("10.0.0.2", 1.0) == 1
    assert attempts.line("10.0.0.1", LOG_SECONDS) == 60


def test_clients_that_fail_are_remembered_in_bounded_number() -> None:
    attempts = Attempts()
    for number in range(5000):
        attempts.line(f"client-{number}", 0.0)
    assert len(attempts._logged) == 1000
