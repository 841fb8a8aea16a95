"""The class Engine while dockerd is lost, hangs or loses events, and afterwards."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import docker
import structlog
from docker_lab import DockerEngine
from engine_following import Relay, Seen, following

from discovery.testing import eventually_sync, within
from discovery_docker.engine import Engine
from discovery_docker.patience import Patience


def running(engine: DockerEngine) -> list[str]:
    return sorted(entry["Names"][0].removeprefix("/") for entry in engine.client.api.containers())


def test_an_engine_that_is_killed_and_started_again(docker_engine: DockerEngine) -> None:
    """No container disappears during the outage, and an engine that returns soon is not an error."""
    for name in ("web-1", "web-2"):
        docker_engine.run(name, "busybox")
    with following(docker_engine.url) as seen:
        docker_engine.kill()
        assert seen.names == ["web-1", "web-2"]
        docker_engine.start()
        eventually_sync(lambda: seen.names == [], "what ended with the engine to be gone")
        docker_engine.client.api.start("web-2")
        eventually_sync(lambda: seen.names == ["web-2"])
        port = docker_engine.port("web-2")
        assert seen.get("web-2").ports[80, "tcp"][0].host_port == port


def test_an_engine_that_stays_unreachable_is_an_error_and_the_last_state_stands(docker_engine: DockerEngine) -> None:
    docker_engine.run("web-1", "busybox")
    with Relay(docker_engine) as relay, following(relay.url, patience=Patience(reconnect=0.5)) as seen:
        relay.close()
        eventually_sync(lambda: seen.errors, "an error")
        assert seen.errors == [f"there is no Docker engine at {relay.url}: start Docker, or set another URL"]
        assert seen.names == ["web-1"]
        relay.open()
        docker_engine.run("web-2", "busybox")
        eventually_sync(lambda: seen.names == ["web-1", "web-2"])
        assert len(seen.errors) == 1  # told once, though it was tried all the time


def test_all_changes_during_an_outage_are_found(docker_engine: DockerEngine) -> None:
    """Also after more events than the engine keeps, which are 256."""
    docker_engine.run("stays", "busybox")
    docker_engine.run("goes", "busybox")
    moves = docker_engine.run("moves", "busybox")
    with Relay(docker_engine) as relay, following(relay.url) as seen:
        relay.close()
        docker_engine.client.api.remove_container("goes", force=True)
        docker_engine.run("comes", "busybox")
        moves.restart()
        for number in range(300):
            moves.rename(f"moves-{number}")
        relay.open()
        eventually_sync(lambda: seen.names == ["comes", "moves-299", "stays"], timeout=30)
        port = docker_engine.port("moves-299")
        assert seen.get("moves-299").ports[80, "tcp"][0].host_port == port
        assert not seen.stopping


def test_changes_without_an_event_are_found_by_the_next_listing(docker_engine: DockerEngine) -> None:
    docker_engine.run("goes", "busybox")
    with Relay(docker_engine) as relay, following(relay.url, reconcile=0.5) as seen:
        relay.mute = True
        docker_engine.client.api.remove_container("goes", force=True)
        docker_engine.run("comes", "busybox")
        eventually_sync(lambda: seen.names == ["comes"])


def test_with_live_restore_only_containers_that_ended_disappear(
    live_restore_engine: DockerEngine,
) -> None:
    dies = live_restore_engine.run("dies", "busybox")
    live_restore_engine.run("lives", "busybox")
    dies.reload()
    with following(live_restore_engine.url) as seen:
        live_restore_engine.kill()
        os.kill(dies.attrs["State"]["Pid"], signal.SIGKILL)
        live_restore_engine.start()
        eventually_sync(lambda: seen.names == ["lives"])
        assert all("lives" in [each.name for each in state.containers] for state in seen.states)


def test_an_engine_that_hangs_is_noticed_and_followed_on(docker_engine: DockerEngine) -> None:
    docker_engine.run("web-1", "busybox")
    impatient = Patience(quiet=0.5, ping=0.5, connect=0.5, reconnect=0.5)
    with following(docker_engine.url, patience=impatient) as seen:
        docker_engine.suspend()
        eventually_sync(lambda: seen.errors)
        assert seen.errors == [f"the Docker engine at {docker_engine.url} is not responding"]
        assert seen.names == ["web-1"]
        docker_engine.resume()
        docker_engine.run("web-2", "busybox")
        eventually_sync(lambda: seen.names == ["web-1", "web-2"])


def test_a_failed_inspection_is_repeated(docker_engine: DockerEngine) -> None:
    docker_engine.run("stays", "busybox")
    created = docker_engine.client.containers.create("busybox", name="comes")
    with Relay(docker_engine) as relay, following(relay.url, reconcile=300, patience=Patience(answer=0.5)) as seen:
        relay.lost = f"/containers/{created.id}/json".encode()
        created.start()
        eventually_sync(lambda: relay.losses > 3)  # more than there are events
        assert seen.names == ["stays"]
        relay.lost = b""
        eventually_sync(lambda: seen.names == ["comes", "stays"])
        assert not seen.errors


def test_the_first_state_has_all_containers_or_lacks_one_that_stays_unreadable(docker_engine: DockerEngine) -> None:
    """What the first state lacks is withdrawn: a failure that passes must not have that effect."""
    docker_engine.run("one", "busybox")
    other = docker_engine.run("other", "busybox")
    with Relay(docker_engine) as relay:
        relay.lost = f"/containers/{other.id}/json".encode()
        patience = Patience(answer=0.5, first=600)
        with Seen(Engine(relay.url, structlog.get_logger(), reconcile=300, patience=patience)) as seen:
            eventually_sync(lambda: relay.losses > 2)
            assert not seen.states
            relay.lost = b""
            eventually_sync(lambda: seen.states)
            assert [each.name for each in seen.states[0].containers] == ["one", "other"]
            assert not seen.errors
        relay.lost = f"/containers/{other.id}/json".encode()
        with following(relay.url, reconcile=300, patience=Patience(answer=0.5, first=1)) as seen:
            assert seen.names == ["one"]


def test_an_engine_that_hangs_does_not_keep_the_process(docker_engine: DockerEngine, tmp_path: Path) -> None:
    """Neither while the engine is followed, nor at the end, where executors wait for their threads."""
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, sys, threading, structlog\n"
        "from discovery_docker.engine import Engine\n"
        "async def main():\n"
        "    states = Engine(sys.argv[1], structlog.get_logger(), reconcile=0.05).follow()\n"
        "    await anext(states)\n"
        "    print('seen', flush=True)\n"
        "    await asyncio.to_thread(sys.stdin.readline)\n"
        "    waiting = asyncio.ensure_future(anext(states))\n"
        "    while 'docker-call' not in {thread.name for thread in threading.enumerate()}:\n"
        "        await asyncio.sleep(0.01)\n"
        "    waiting.cancel()\n"
        "    await asyncio.wait([waiting])\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, program, docker_engine.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "seen\n"
        docker_engine.suspend()
        process.communicate("go\n", timeout=within(20))
        assert process.returncode == 0


def test_the_state_is_right_after_random_changes(docker_engine: DockerEngine) -> None:
    """Containers started, killed and paused at random, and the engine killed in the middle of it."""
    names = [f"web-{number}" for number in range(12)]
    for name in names:
        docker_engine.client.containers.create("busybox", name=name, ports={"80/tcp": None})

    clients = [docker_engine.new_client().api for _ in range(6)]

    def disturb(number: int) -> None:
        client, chance = clients[number], random.Random(number)
        acts: list[Callable[[str], object]] = [
            *(client.start, client.start, client.kill, client.restart, client.pause, client.unpause),
        ]
        for _ in range(25):
            with suppress(docker.errors.APIError, OSError):
                chance.choice(acts)(chance.choice(names))

    with following(docker_engine.url) as seen:
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(disturb, range(3)):
                pass
            disturbing = [pool.submit(disturb, number) for number in range(3, 6)]
            docker_engine.kill()
            docker_engine.start()
            for each in disturbing:
                each.result()
        eventually_sync(lambda: seen.names == running(docker_engine) and not seen.stopping, timeout=20)
        for container in seen.latest.containers:
            assert container.ports[80, "tcp"][0].host_port == docker_engine.port(container.name)
            assert container.paused == (docker_engine.client.containers.get(container.name).status == "paused")
