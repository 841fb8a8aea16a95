"""Point 5: a certificate that was renewed is named in the log, with its end, once it serves."""

import datetime as dt
from pathlib import Path

import pytest
import trustme
from daemons import RecordFiles, Starter

from discovery.system.certificates import read_certificate
from discovery.testing import eventually_sync, free_port, require_program

pytestmark = pytest.mark.warm

TIMEOUT = 60.0
ENDS = dt.datetime(2037, 5, 6, 7, 8, 9, tzinfo=dt.UTC)


def issue(path: Path, name: str, *, directory: bool = False) -> None:
    leaf = trustme.CA().issue_cert(name, common_name=name, not_after=ENDS)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    temporary.replace(path / "one.pem" if directory else path)


def test_what_a_file_says(tmp_path: Path) -> None:
    path = tmp_path / "some.pem"
    issue(path, "web.example.org")
    assert str(read_certificate(path)) == "web.example.org, expires 2037-05-06 07:08:09 UTC"
    alternative = trustme.CA().issue_cert("alternative.example.org", not_after=ENDS).cert_chain_pems[0].bytes()
    path.write_bytes(alternative)
    assert str(read_certificate(path)).startswith("alternative.example.org, expires ")
    path.write_text("nonsense")
    assert read_certificate(path) is None
    assert read_certificate(tmp_path / "none") is None


@pytest.mark.parametrize("directory", [False, True])
def test_a_renewed_certificate_of_haproxy_is_named(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles, directory: bool
) -> None:
    require_program("haproxy")
    url, write = file_registry
    write("web/b1", "127.0.0.1:9")
    path = tmp_path / "certificates"
    if directory:
        path.mkdir()
    issue(path, "old.example.org", directory=directory)
    daemon = start_daemon(
        "--registry", url, "--plugin", "haproxy", "--set",
        f'haproxy.services.web.bind={{address = "127.0.0.1:{free_port()}", certificate = "{path}"}}',
    )  # fmt: skip
    eventually_sync(daemon.is_ready, timeout=TIMEOUT)
    assert "certificate reloaded" not in daemon.log
    issue(path, "new.example.org", directory=directory)
    told = "certificate reloaded: new.example.org, expires 2037-05-06 07:08:09 UTC"
    eventually_sync(lambda: told in daemon.log, timeout=TIMEOUT)
