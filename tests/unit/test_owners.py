"""The default owner: one for each lock on a machine, and whose records it takes over."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from discovery.system import rundir
from discovery.system.owners import DefaultOwner, machine_id
from discovery.validity import MAX_LABEL_VALUE


def test_the_machine_id_is_stable_and_not_the_secret_one() -> None:
    assert machine_id() == machine_id()
    with suppress(FileNotFoundError):
        if secret := Path("/etc/machine-id").read_text().strip():
            assert secret not in machine_id()


def test_a_cloned_machine_is_another_by_its_name_but_none_becomes_another_while_it_runs() -> None:
    ask = "import socket; from discovery.system.owners import machine_id as of"
    ask += "; socket.gethostname = lambda: '{}'; one = of()"
    ask += "; socket.gethostname = lambda: 'renamed'; print(one, one == of())"
    told = [subprocess.check_output([sys.executable, "-c", ask.format(name)], text=True).split() for name in "aab"]
    assert told[0] == told[1] != told[2]
    assert [same for _, same in told] == ["True"] * 3


def test_each_lock_is_an_owner_of_its_own_whichever_way_it_is_reached(tmp_path: Path) -> None:
    """Point 24."""
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    owner = str(DefaultOwner("web", tmp_path / "one" / "lock"))
    assert owner == f"{machine_id()}/web@{os.geteuid()}:{tmp_path}/one/lock"
    assert owner == str(DefaultOwner("web", tmp_path / "link" / "lock"))
    assert owner != str(DefaultOwner("web", tmp_path / "two" / "lock"))


@pytest.mark.parametrize("name", ["x\n", "x" * 2000])
def test_any_lock_makes_an_owner_that_a_record_may_have(name: str) -> None:
    """Point 24."""
    owner = str(DefaultOwner("web", Path("/", name, "lock")))
    assert owner.isprintable()
    assert len(owner) < MAX_LABEL_VALUE
    assert owner != str(DefaultOwner("web", Path("/", f"{name}y", "lock")))


def test_it_succeeds_one_that_crashed_and_none_that_may_live(tmp_path: Path) -> None:
    """Point 24."""
    ours, other = DefaultOwner("web", tmp_path / "ours"), DefaultOwner("web", tmp_path / "other")
    assert not ours.succeeds(str(other))  # it has ended in order, or its run directory was removed
    with rundir.lock(other.lock, "other"):
        assert not ours.succeeds(str(other))
    other.lock.touch()
    assert ours.succeeds(str(other))
    assert not ours.succeeds(str(other).replace(machine_id(), "another-machine"))
    for name in ("", "chosen", f"{machine_id()}/web@0:", f"{machine_id()}/web@0:{tmp_path}"):
        assert not ours.succeeds(name)
    assert ours.succeeds(f"{machine_id()}/web")  # so it was called before it had its lock's name
