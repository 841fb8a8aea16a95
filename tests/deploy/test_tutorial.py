"""The tutorial from start to end: six containers, a machine that loses power and returns, and requests throughout."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sampling import sampled

from discovery.testing import eventually_sync, require_program, within

pytestmark = [
    pytest.mark.docker,
    pytest.mark.usefixtures("_requirements"),
    pytest.mark.timeout(900),
]

ROOT = Path(__file__).parents[2]
LIMIT = 220
"""Seconds for a run, of which the images take most: with CI's patience, 3, less than the timeout of a test."""
PATIENCE = 2
"""Times of a bar that a duration may take on a busy machine."""
RESUMED = 5
"""Seconds from the end of the dead machine's record to the first answer: ten times what a busy machine needs."""
UNACKNOWLEDGED = 15
"""Seconds after which the ambassador ends a connection to a machine that died."""


@pytest.fixture
def place() -> Iterator[Path]:
    """Return an empty directory for everything that the tutorial makes, with a name short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tut-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return where the images of the tutorial are, or are to be made by this test while the others wait."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    archive = shared / "tutorial-images.tar"
    with (shared / "tutorial-images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if archive.exists():
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield archive


@contextmanager
def started(place: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the tutorial; its steps are told in the file `steps` beside the directory, its result on the pipe."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "deploy/tutorial"), "TMPDIR": str(place)}
    command = [sys.executable, "-m", "tutorial", "--json", *arguments]
    with steps(place).open("w") as told:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=told, text=True, env=environment
        )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=within(60))
        print(steps(place).read_text())
        steps(place).unlink()


def steps(place: Path) -> Path:
    return place.with_suffix(".steps")


def left_behind(place: Path) -> Sequence[str]:
    """Return what is left of a run: files, mounts, and processes that have the directory on their command line."""
    processes = list[str]()
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = each.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if f"{place}/" in command:
            processes.append(command)
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{place}/" in line]
    return [*map(str, place.iterdir()), *mounts, *processes]


def ended(process: subprocess.Popen[str], place: Path) -> set[str]:
    """Wait until a run has ended; return the names of the network namespaces that the run has had meanwhile."""
    names = set[str]()

    def noted() -> bool:
        over = process.poll() is not None  # before: what remains is noted
        names.update(each.name for each in place.glob("dlab-*"))
        return over

    eventually_sync(noted, "the run to end", timeout=60)
    return names


@pytest.mark.parametrize("leader", [False, True], ids=["follower", "leader"])
def test_no_request_fails_when_a_machine_loses_power_and_returns(place: Path, images: Path, leader: bool) -> None:
    require_program("docker", wheel=False)
    picture = place.with_suffix(".png")
    arguments = ["--images", str(images), "--picture", str(picture), *(["--leader"] if leader else [])]
    with started(place, *arguments) as process:
        printed = process.communicate(timeout=within(LIMIT))[0]
    assert process.returncode == 0
    result: dict[str, Any] = json.loads(printed)
    print(printed)
    assert result["leader_on_a"] == leader
    assert (result["failed"], result["flaps"], result["duplicates"]) == ([], 0, 0)
    assert set(result["served"]) == {"a", "spare"}
    assert sum(result["served"].values()) + len(result["in_flight_failed"]) == result["requests"]
    # Requests were held while there was no backend, for as long as the lease of a dead machine stands and no longer.
    assert result["held"] > 0
    assert result["longest_hold"] <= PATIENCE * result["longest_hold_allowed"]
    assert result["longest_hold_met"] == (result["longest_hold"] <= result["longest_hold_allowed"])
    assert (result["election"] > 0) == leader
    # What follows the end of the record is no matter of etcd: the registrar, the ambassador and HAProxy.
    assert result["resumed"] - result["record_ended"] <= within(RESUMED)
    assert result["in_flight"] > 0
    assert result["in_flight_longest"] <= PATIENCE * UNACKNOWLEDGED
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    assert left_behind(place) == []


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("Start three machines", signal.SIGTERM),
        ("building the images", signal.SIGINT),
        *sampled([pytest.param("etcd on each machine", signal.SIGINT), pytest.param("b$ docker run", signal.SIGTERM)]),
        *sampled(
            [
                pytest.param("loses power", signal.SIGINT),
                pytest.param("Apache starts on", signal.SIGTERM),
                pytest.param("a returns", signal.SIGHUP),
            ]
        ),
    ],
)
def test_an_interrupted_run_leaves_nothing_behind(place: Path, images: Path, step: str, number: signal.Signals) -> None:
    require_program("docker", wheel=False)
    arguments = ["--no-picture"] if step == "building the images" else ["--no-picture", "--images", str(images)]
    with started(place, *arguments) as process:
        eventually_sync(lambda: step in steps(place).read_text(), f"the step {step!r}", timeout=LIMIT)
        process.send_signal(number)
        names = ended(process, place)
        assert process.returncode == 130
    assert left_behind(place) == []
    assert names
    assert not names & network_namespaces()


def test_a_run_that_is_killed_leaves_nothing_behind(place: Path) -> None:
    """As by `timeout --kill-after`, or by somebody for whom the end in order takes too long."""
    require_program("docker", wheel=False)
    with started(place, "--no-picture") as process:
        eventually_sync(lambda: "    a: 10.132" in steps(place).read_text(), "a machine to start", timeout=LIMIT)
        process.kill()
        names = ended(process, place)
    assert names
    eventually_sync(lambda: not names & network_namespaces() and not left_behind(place), "the removal", timeout=60)


def network_namespaces() -> set[str]:
    return {each.name for each in Path("/run/netns").glob("dlab-*")}
