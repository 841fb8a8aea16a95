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
