"""`discovery.registered`: one record while a process of the application lives."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from libraries import children

import discovery
from discovery.registry import Record, decode
from discovery.testing import eventually, eventually_sync, free_port, within

APPLICATION = """
import sys, time, discovery
registration = discovery.registered(None, "web", "127.0.0.1:8001", ttl=2)
{use}
"""


@pytest.fixture
def record(records: Path) -> Path:
    return records / "web/127.0.0.1:8001"


def registered(records: Path, **arguments: Any) -> discovery.Registration:
    return discovery.registered(f"file://{records}", "web", "127.0.0.1:8001", **arguments)


def contents(record: Path) -> discovery.Backend:
    decoded = decode(f"{record.parent.name}/{record.name}", record.read_bytes())
    assert isinstance(decoded, Record)
    return decoded.backend


@contextmanager
def application(records: Path, use: str) -> Iterator[subprocess.Popen[str]]:
    """A program that registers itself; it says `ready` once it is registered."""
    program = APPLICATION.format(use=use)
    environment = {**os.environ, "DISCOVERY_REGISTRY": f"file://{records}"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


def test_a_block_has_the_backend_registered_and_withdraws_it_at_the_end(records: Path, record: Path) -> None:
    with registered(records, labels={"version": "2"}, weight=3) as registration:
        assert (contents(record).weight, contents(record).labels) == (3, {"version": "2"})
        assert registration.is_registered
        assert registration.problem is None
        registration.update(state="draining")
        eventually_sync(lambda: contents(record).state is discovery.State.DRAINING, "the state")
    assert not record.exists()
    assert not registration.is_registered


async def test_a_block_on_a_loop_does_the_same_and_withdraws_if_it_is_cancelled(records: Path, record: Path) -> None:
    entered = asyncio.Event()

    async def serve() -> None:
        async with registered(records):
            entered.set()
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await asyncio.wait_for(entered.wait(), within(20))
    assert record.exists()
    serving.cancel()
    await asyncio.wait([serving])
    assert serving.cancelled()
    assert not record.exists()


def test_an_exception_withdraws(records: Path, record: Path) -> None:
    with pytest.raises(FileNotFoundError), registered(records):
        record.with_name("missing").read_text()
    assert not record.exists()


def test_a_key_of_another_owner_is_refused_with_the_reason(records: Path, record: Path) -> None:
    record.parent.mkdir()
    record.write_text("127.0.0.1:8001")
    with pytest.raises(discovery.DiscoveryError, match="belongs to an unnamed owner"), registered(records):
        pass
    assert record.read_text() == "127.0.0.1:8001"
    with registered(records, force=True):
        assert record.read_text() != "127.0.0.1:8001"


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({}, {"owner": "me"}, r"with owner '.*', and cannot have owner 'me' as well"),
        ({"force": False}, {"force": True}, "with force False, and cannot have force True"),
    ],
    ids=["owner", "force"],
)
def test_a_second_registration_of_a_key_with_another_owner_or_force_is_refused(
    records: Path, record: Path, one: dict[str, Any], other: dict[str, Any], told: str
) -> None:
    with registered(records, **one) as first:
        before = record.read_bytes()
        with pytest.raises(discovery.ConfigError, match=told), registered(records, **other):
            pass
        assert first.is_registered
        assert record.read_bytes() == before
        with registered(records, **one, weight=3):
            eventually_sync(lambda: contents(record).weight == 3, "what the process that came last wants")


@pytest.mark.costly
def test_a_key_is_handed_over_to_an_application_that_asks_for_it(tmp_path: Path, records: Path, record: Path) -> None:
    """Issue 12, C.1."""
    with registered(records, owner="old", run_dir=tmp_path / "old") as old:
        with registered(records, owner="new", weight=2, takeover=True, run_dir=tmp_path / "new") as new:
            assert new.is_registered
            assert contents(record).weight == 2
            eventually_sync(lambda: not old.is_registered, "the old owner to know")
            assert old.problem is not None
            assert "was handed over to 'new'" in old.problem
        eventually_sync(lambda: old.is_registered, "the key to be free again")
    assert not record.exists()
    record.write_text('{"host": "10.0.0.1", "port": 80, "owner": "another program"}')
    with registered(records, takeover=True, wait=0) as asking:
        eventually_sync(lambda: "is asked for it and has not answered yet" in str(asking.problem), "the reason")
        assert not asking.is_registered
    with pytest.raises(discovery.ConfigError, match="give one of them"):
        registered(records, takeover=True, force=True)


@pytest.mark.costly
def test_a_registry_that_does_not_answer_is_an_error_after_the_wait_or_awaited_in_the_background(
    tmp_path: Path, records: Path, record: Path
) -> None:
    records.rename(tmp_path / "elsewhere")
    with pytest.raises(discovery.DiscoveryError, match=r"could not be registered at .* within 0\.3 s"):
        registered(records, wait=0.3).start()
    with registered(records, wait=0) as registration:
        eventually_sync(lambda: registration.problem, "the reason")
        (tmp_path / "elsewhere").rename(records)
        eventually_sync(record.exists, "the registration once the registry is back")


def test_what_is_wrong_is_told_at_once(records: Path) -> None:
    for wrong in ({"address": "8001"}, {"weight": -1}, {"ttl": "yes"}, {"check": {"type": "tcpp"}}, {"state": "gone"}):
        arguments: dict[str, Any] = {"address": "127.0.0.1:8001", **wrong}
        with pytest.raises(discovery.ConfigError):
            discovery.registered(f"file://{records}", "web", **arguments)
    with pytest.raises(discovery.ConfigError, match="'consul' is not known"):
        discovery.registered("consul://127.0.0.1", "web", "127.0.0.1:8001").start()


def test_a_backend_with_a_check_is_registered_once_its_port_is_open(records: Path) -> None:
    port = free_port()
    record = records / f"web/127.0.0.1:{port}"
    check = {"type": "tcp", "interval": "100ms"}
    with discovery.registered(f"file://{records}", "web", f"127.0.0.1:{port}", check=check):
        assert not record.exists()
        with socket.create_server(("127.0.0.1", port)):
            eventually_sync(record.exists, "the backend to be registered")


@pytest.mark.costly
@pytest.mark.parametrize(
    ("use", "end"),
    [
        pytest.param("registration.start(); print('ready', flush=True); sys.stdin.read()", "exit", id="exit"),
        pytest.param("registration.start(); print('ready', flush=True); time.sleep(600)", "term", id="SIGTERM"),
        pytest.param(
            "with registration: print('ready', flush=True); time.sleep(600)",
            "kill",
            id="SIGKILL",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_the_end_of_the_program_withdraws(records: Path, record: Path, use: str, end: str) -> None:
    use = use.replace("sys.stdin.read()", "pass")
    with application(records, use) as running:
        if end != "exit":
            assert record.exists()
            running.send_signal(signal.SIGTERM if end == "term" else signal.SIGKILL)
        running.wait(within(20))
        if end == "exit":
            assert not record.exists(), "the interpreter waits for the withdrawal"
    eventually_sync(lambda: not record.exists(), "the withdrawal")


def test_processes_of_one_application_share_a_record_which_goes_with_the_last(records: Path, record: Path) -> None:
    use = "registration.start(); print('ready', flush=True); time.sleep(600)"
    with registered(records) as registration:
        inode = record.stat().st_ino
        with application(records, use) as worker:
            assert registration.is_registered
            assert record.stat().st_ino == inode, "the worker has joined, and wrote nothing"
            registration.close()
            assert record.exists(), "the worker lives"
            worker.kill()
        eventually_sync(lambda: not record.exists(), "the withdrawal")


@pytest.mark.costly
def test_a_forked_child_keeps_the_record_of_its_parent(records: Path, record: Path) -> None:
    use = """
import os
registration.start()
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    registration.update(weight=7)
    print("orphaned", flush=True)
    time.sleep(600)
print("ready", flush=True)
time.sleep(600)
"""
    with application(records, use) as parent:
        (child,) = children(parent.pid, b"import sys, time")
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        assert parent.stdout.readline() == "orphaned\n"
        eventually_sync(lambda: contents(record).weight == 7, "what the child wants")
        os.kill(child, signal.SIGTERM)
    eventually_sync(lambda: not record.exists(), "the withdrawal")


@pytest.mark.costly
def test_threads_that_fork_at_once_or_while_a_lock_is_held_do_no_harm(records: Path, record: Path) -> None:
    with registered(records) as registration:
        member = registration._member
        assert member is not None
        held, released, statuses = threading.Event(), threading.Event(), []

        def hold() -> None:
            with member._changed:
                held.set()
                released.wait(within(10))

        def fork() -> None:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    registration.update(weight=2)
                    status = not member.wait(within(20))
                finally:
                    os._exit(status)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

        threads = [threading.Thread(target=hold), *(threading.Thread(target=fork) for _ in range(4))]
        for thread in threads:
            thread.start()
        assert held.wait(within(10))
        released.set()
        for thread in threads:
            thread.join(within(60))
        assert statuses == [0] * 4
        registration.update(weight=5)
        eventually_sync(lambda: contents(record).weight == 5, "the parent to go on")


@pytest.mark.costly
def test_a_keeper_that_is_killed_is_replaced(records: Path, record: Path) -> None:
    with registered(records, ttl=2) as registration:
        (keeper,) = children(os.getpid())
        os.kill(keeper, signal.SIGKILL)
        eventually_sync(lambda: set(children(os.getpid())) - {keeper}, "another keeper")
        eventually_sync(lambda: registration.is_registered, "the registration")
        assert record.exists()


def test_a_process_joins_although_a_cleaner_has_emptied_the_run_directory(
    tmp_path: Path, records: Path, record: Path
) -> None:
    use = "registration.start(); print('ready', flush=True); time.sleep(600)"
    with registered(records) as registration:
        for file in (tmp_path / "run").iterdir():
            file.unlink()
        eventually_sync(lambda: list((tmp_path / "run").glob("*.sock")), "the socket to be made again")
        with application(records, use):
            registration.close()
            assert record.exists(), "the process that has joined lives"


@pytest.mark.costly
async def test_a_wait_on_a_loop_is_cancelled_at_once(tmp_path: Path) -> None:
    entering = asyncio.create_task(registered(tmp_path / "missing", wait=60).__aenter__())
    await eventually(lambda: children(os.getpid()), "the keeper")
    entering.cancel()
    started = time.monotonic()
    await asyncio.wait([entering])
    assert entering.cancelled()
    assert time.monotonic() - started < within(30)
