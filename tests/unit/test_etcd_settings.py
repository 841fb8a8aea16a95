"""Registry URLs of etcd: what they mean, and what is said of those that are wrong."""

from pathlib import Path

import pytest

from discovery.errors import AccessDeniedError, ConfigError
from discovery.registry import RegistryURL, open_registry
from discovery.registry.etcd.settings import EtcdSettings
from discovery.registry.url import PASSWORD_VARIABLE

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"


def settings(url: str, **environment: str) -> EtcdSettings:
    return EtcdSettings.from_url(RegistryURL.parse(url), environment)


@pytest.mark.parametrize(
    ("url", "endpoints", "prefix"),
    [
        ("etcd://10.0.0.1", ("10.0.0.1:2379",), b"/services/"),
        ("etcd://10.0.0.1:1,host.example:2/", ("10.0.0.1:1", "host.example:2"), b"/services/"),
        ("etcd://[2001:db8::1],[::1]:4000/a/b/", ("[2001:db8::1]:2379", "[::1]:4000"), b"/a/b/"),
        ("etcd://a,a:2379,b/x", ("a:2379", "b:2379"), b"/x/"),
    ],
)
def test_members_and_prefix(url: str, endpoints: tuple[str, ...], prefix: bytes) -> None:
    assert settings(url).endpoints == endpoints
    assert settings(url).prefix == prefix


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("etcd://", "names no member"),
        ("etcd://a:0", "a:0"),
        ("etcd://a:99999", "99999"),
        ("etcd://::1", "brackets"),
        ("etcd://a b", "a b"),
        ("etcd://[::1", "'[::1' is not HOST"),
        ("etcd://a\nb", "has an unprintable character"),
        ("etcd://a//x", "empty part"),
        ("etcd://a?casert=x", "did you mean"),
        ("etcds://a?pasword_file=x", "'password_file'"),
        ("etcd://a?ca=/x", "etcds://"),
        ("etcds://a?ca=/missing.pem", "/missing.pem"),
        ("etcds://a?cert=/x.pem", "go together"),
        ("etcd://user@a", PASSWORD_VARIABLE),
        ("etcd://user@a?password_file=/missing", "/missing"),
        ("etcd://a?password_file=/missing", "no user"),
    ],
)
def test_a_wrong_url_is_named_in_one_line(url: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(url)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_pem_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"hello")
    with pytest.raises(ConfigError, match=r"ca\.pem holds no PEM"):
        settings(f"etcds://a?ca={tmp_path}/ca.pem")


def test_tls_files_are_read_anew(tmp_path: Path) -> None:
    for name, text in (("ca", CERTIFICATE), ("cert", CERTIFICATE), ("key", KEY)):
        (tmp_path / name).write_bytes(text)
    tls = settings(f"etcds://a?ca={tmp_path}/ca&cert={tmp_path}/cert&key={tmp_path}/key&server_name=etcd").tls
    assert tls is not None
    assert tls.server_name == "etcd"
    first = tls.read()
    assert (first.ca, first.key) == (CERTIFICATE, KEY)
    (tmp_path / "ca").write_bytes(CERTIFICATE * 2)
    assert tls.read() != first
    assert tls.read().ca == CERTIFICATE * 2


def test_a_password_comes_from_the_url_its_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from file\n")
    for url, password in (
        ("etcd://u:p%40ss@a", "p@ss"),
        ("etcd://u:p\u2100ss@a", "p\u2100ss"),
        (f"etcd://u@a?password_file={file}", "from file"),
        ("etcd://u@a", "from environment"),
    ):
        login = settings(url, **{PASSWORD_VARIABLE: "from environment"}).login
        assert login is not None
        assert (login.user, login.password()) == ("u", password)


@pytest.mark.parametrize("password", ["se/cret", "12/secret", "12?secret", "12#secret"])
def test_what_may_be_a_password_behind_a_slash_is_refused_and_not_shown(password: str) -> None:
    with pytest.raises(ConfigError, match="%2F") as raised:
        settings(f"etcd://user:{password}@10.0.0.1:2379/services")
    assert "cret" not in str(raised.value)
    assert settings("etcd://10.0.0.1:2379/ser%40vices").prefix == b"/ser@vices/"


def test_a_password_that_is_no_text_is_refused_and_not_shown() -> None:
    for url, environment in ("etcd://u@a", "secret\udcff"), ("etcd://u:secret\udcff@a", ""):
        with pytest.raises(ConfigError) as raised:
            settings(url, **{PASSWORD_VARIABLE: environment})
        assert "secret" not in str(raised.value)


def test_a_password_file_that_vanishes_is_a_refusal_to_retry(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    login = settings(f"etcd://u@a?password_file={file}").login
    file.unlink()
    assert login is not None
    with pytest.raises(AccessDeniedError, match="password_file"):
        login.password()


def test_a_password_is_never_shown() -> None:
    parsed = RegistryURL.parse("etcd://user:hunter2@a,b/x")
    made = settings("etcd://user:hunter2@a,b/x")
    for text in (repr(made), str(made), repr(made.login), str(parsed), repr(parsed), repr(open_registry(parsed))):
        assert "hunter2" not in text
