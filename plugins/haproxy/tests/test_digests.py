"""Files that a configuration names."""

import resource
from pathlib import Path

from discovery_haproxy.digests import files_at


def test_a_directory_that_cannot_be_read_has_no_files(tmp_path: Path) -> None:
    """Point 5. It is listed after a reload that succeeded: an error there must not make the apply fail."""
    for name in ("b.pem", "a.pem"):
        (tmp_path / name).write_text(name)
    assert files_at(tmp_path) == [tmp_path / "a.pem", tmp_path / "b.pem"]
    assert files_at(tmp_path / "a.pem") == [tmp_path / "a.pem"]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # it is a directory still, which cannot be opened
    try:
        unreadable = files_at(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert unreadable == []
