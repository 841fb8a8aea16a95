"""Files of users: what is wrong with a file, before HAProxy reads the file."""

from pathlib import Path

import pytest

from discovery_haproxy.deployment.digests import FileDigests
from discovery_haproxy.deployment.users_files import login_faults
from discovery_haproxy.options.config import HAProxyConfig

HASHES = (
    "$5$rounds=1000$saltsalt$3xv.VbSCBX41eDL9L3voZredEjXUtBAc7UVC3RgcCS3",
    "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/",
    "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/",
    "$2y$05$bvIG6Nmid91Mu9RcmmWZfO5HJIMCT8riNW0hEp8f6/FuA2/mHZFpe",
    "$apr1$saltsalt$EOfBCvAwHYjnOEWJvFOAA.",
    "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7",
    "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
)


def told(path: Path, *, here: bool = True) -> list[str]:
    config = HAProxyConfig.model_validate({"services": {"web": {"basic_auth": str(path)}}})
    return [fault.text for fault in login_faults(config, FileDigests().read([path]), here=here)]


@pytest.mark.parametrize(
    "text", ["alice:secret", "alice:secret\n", "# staff\n\nalice:a:b\n  bob:$5\n", "ä:ö\n", "alice:$money$\r\n"]
)
def test_a_file_with_a_user_is_good(tmp_path: Path, text: str) -> None:
    path = tmp_path / "web.users"
    path.write_text(text)
    assert told(path) == []


@pytest.mark.parametrize("text", ["", "\n\n", "# alice:secret\n", "  \t\n#\n"])
def test_a_file_without_a_user_is_a_fault(tmp_path: Path, text: str) -> None:
    path = tmp_path / "web.users"
    path.write_text(text)
    (fault,) = told(path)
    assert fault == f"users_file {path} of service 'web' has no user, so that nobody could log in: write NAME:PASSWORD"


@pytest.mark.parametrize("digest", HASHES)
def test_a_hash_is_a_fault_that_does_not_tell_the_hash(tmp_path: Path, digest: str) -> None:
    path = tmp_path / "web.users"
    path.write_text(f"# staff\nalice:secret\nbob:{digest}\n")
    (fault,) = told(path)
    assert fault.startswith(f"users_file {path} of service 'web': line 3 has a hash in place of a password")
    assert digest not in fault


@pytest.mark.parametrize("line", ["alice", ":secret", "alice:"])
def test_a_line_that_is_no_user_is_a_fault(tmp_path: Path, line: str) -> None:
    path = tmp_path / "web.users"
    path.write_text(f"bob:secret\n{line}\n")
    (fault,) = told(path)
    assert fault == f"users_file {path} of service 'web': line 2 is not NAME:PASSWORD"


def test_a_file_that_cannot_be_read_is_a_fault_where_haproxy_reads_the_same_files(tmp_path: Path) -> None:
    path = tmp_path / "web.users"
    assert told(path) == [f"users_file {path} of service 'web' cannot be read: No such file or directory"]
    assert told(path, here=False) == []
    assert told(tmp_path) == [f"users_file {tmp_path} of service 'web' cannot be read: Is a directory"]


def test_each_login_has_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "web.users"
    path.touch()
    stats = {"address": "127.0.0.1:1", "users_file": str(path)}
    services = {"web": {"hosts": "a", "basic_auth": str(path)}, "api": {"hosts": "b", "basic_auth": str(path)}}
    config = HAProxyConfig.model_validate({"services": services, "stats": stats})
    faults = login_faults(config, FileDigests().read([path]), here=True)
    assert [str(fault.part) for fault in faults] == ["the address of 'stats'", "service 'api'", "service 'web'"]
