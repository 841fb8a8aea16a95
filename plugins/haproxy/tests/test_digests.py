"""Files that a configuration names."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from discovery_haproxy.deployment.digests import FileDigests, files_at


@contextmanager
def without_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_directory_that_cannot_be_read_has_no_files(tmp_path: Path) -> None:
    """Point 5. It is listed after a reload that succeeded: an error there must not make the apply fail."""
    for name in ("b.pem", "a.pem"):
        (tmp_path / name).write_text(name)
    assert files_at(tmp_path) == [tmp_path / "a.pem", tmp_path / "b.pem"]
    assert files_at(tmp_path / "a.pem") == [tmp_path / "a.pem"]
    with without_descriptors():
        unreadable = files_at(tmp_path)  # a directory still, which cannot be opened
    assert unreadable == []


@pytest.mark.parametrize("name", [".", "a.pem"])
def test_a_file_that_cannot_be_read_for_lack_of_descriptors_is_not_missing(tmp_path: Path, name: str) -> None:
    """The digest of a missing file would reload HAProxy, twice."""
    (tmp_path / "a.pem").write_text("certificate")
    path, digests = tmp_path / name, FileDigests()
    try:
        with without_descriptors():
            digests.read([path])
    except OSError:
        pass
    else:
        pytest.fail("a digest without the contents")
    assert digests.read([path]) == FileDigests().read([path])
    assert FileDigests().read([tmp_path / "b.pem"]) == {tmp_path / "b.pem": "missing"}


def test_the_digest_of_a_certificate_covers_the_files_that_haproxy_loads_with_it(tmp_path: Path) -> None:
    site, digests, seen = tmp_path / "site.pem", FileDigests(), set[str]()
    site.write_text("certificate")
    for suffix in (".key", ".ocsp", ".issuer", ".sctl"):
        seen |= set(digests.read([site]).values())
        (tmp_path / f"site.pem{suffix}").write_text("beside")
        assert digests.changed([site])
    seen |= set(digests.read([site]).values())
    assert len(seen) == 5
    (tmp_path / "site.pem.other").write_text("unrelated")
    assert not digests.changed([site])
    site.unlink()
    assert digests.read([site]) == {site: "missing"}
    (tmp_path / "site.pem.rsa").write_text("one of a bundle")
    assert digests.changed([site])
    assert digests.read([site]) != {site: "missing"}


def test_each_certificate_of_a_directory_has_a_digest(tmp_path: Path) -> None:
    digests, single = FileDigests(), tmp_path / "single.pem"
    directory = tmp_path / "certificates"
    directory.mkdir()
    for path in (single, directory / "a.pem", directory / "b.pem", directory / "b.pem.key"):
        path.write_text(path.name)
    before = digests.read_certificates([directory, single, tmp_path / "missing.pem"])
    assert set(before) == {single, directory / "a.pem", directory / "b.pem"}
    (directory / "b.pem.key").write_text("another")
    after = digests.read_certificates([directory, single])
    assert {path for path in before if before[path] != after[path]} == {directory / "b.pem"}
