"""What a daemon that takes over leaves undisturbed besides sockets: records and other daemons."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import warm
from daemons import Starter
from etcds import etcd_of_its_own
from listed import Found, listed, url

from discovery.registry import open_registry
from discovery.testing import eventually, eventually_sync, following, free_port, within

pytestmark = pytest.mark.warm

__all__ = ["etcd_of_its_own", "listed", "url"]


async def test_no_record_is_absent_for_a_moment(
    url: str, start_daemon: Starter, listed: Found, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    listed(("a", 80, "passing"), ("b", 81, ""), ("gone", 82, ""))
    arguments = ("--registry", url, "--plugin", "listed", "--set", listed.option)
    arguments += ("--set", f"listed.ttl={within(3):g}")
    registry = open_registry(url)
    async with following(registry) as follower:
        daemon = start_daemon(*arguments, run_dir=tmp_path / "run")
        await follower.until(lambda: len(follower.records or {}) == 3, timeout=20)
        registered_at = follower.revision
        listed(("a", 80, "passing"), ("b", 81, ""))
        for _ in range(2):
            before, daemon = daemon, start_daemon(*arguments, "--replace", run_dir=tmp_path / "run")
            assert await asyncio.to_thread(before.process.wait, within(20)) == 0
            await eventually(daemon.is_ready, timeout=20)
        if url.startswith("etcd"):  # until the leases are over that were left to themselves
            server = request.getfixturevalue("etcd")
            await eventually(lambda: server.ctl("lease", "list").startswith("found 1 leases"), timeout=20)
        await follower.lists("web/a", "web/b")
        states = [records for revision, records in follower.states.items() if revision >= registered_at]
        assert all({"web/a", "web/b"} <= records.keys() for records in states)
        assert await asyncio.to_thread(daemon.stop) == 0
        await follower.lists()
    await registry.close()


@pytest.mark.costly
@pytest.mark.parametrize("command", ["ambassador", "forward"])
def test_drop_in_commands_take_over_from_their_like_alone(tmp_path: Path, command: str) -> None:
    ports = free_port(), free_port()
    log = tmp_path / "log"

    def start(port: int, *arguments: str) -> warm.Forked:
        what = {
            "ambassador": ("ambassador", "redis", str(port), "--listen", "127.0.0.1", "--registry", "memory://"),
            "forward": ("forward", "127.0.0.1:1", "--listen", f"127.0.0.1:{port}"),
        }[command]
        with log.open("ab") as output:
            line = (*what, "--run-dir", str(tmp_path / "run"), *arguments)
            return warm.start(*line, env=os.environ, stdout=output, stderr=output)

    processes = [start(port) for port in ports]
    try:
        eventually_sync(lambda: log.read_text().count(" listening ") == 2, timeout=20)
        processes.append(start(ports[0], "--replace"))
        assert processes[0].wait(within(20)) == 0
        eventually_sync(lambda: log.read_text().count(" listening ") == 3, timeout=20)
        assert processes[1].poll() is None
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(within(30)) for process in processes]
    assert codes == [0, 0, 0], log.read_text()
