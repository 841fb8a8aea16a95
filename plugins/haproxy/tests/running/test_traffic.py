"""No request is lost: while the configuration changes, while HAProxy stops, and over the death of the daemon."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from haproxy_driver import Drive, StartLoad, haproxy_processes
from haproxy_web import Fetch
from sampling import sampled
from web import after, get, refuses, serving

from discovery import Backend
from discovery.testing import backend, eventually, eventually_sync, free_port
from discovery_haproxy.limits import Limits
from discovery_haproxy.program.control_socket import ControlError, ControlSocket
from discovery_haproxy.program.process import masters

DAEMON = """
import asyncio, sys
from pathlib import Path
from discovery.model import Snapshot, diff
from discovery.plugin import Context, Update
from discovery.testing import backend
from discovery_haproxy import HAProxyConsumer
from discovery_haproxy.options.config import HAProxyConfig
import structlog

async def main(binary, run_dir, bind, *ports):
    # A test, not HAProxy, ends a connection that its client keeps open.
    timeouts = {"http_keep_alive": "10m"}
    config = HAProxyConfig.model_validate(
        {"services": {"web": {"bind": bind}}, "binary": binary, "access_log": True, "timeouts": timeouts}
    )
    consumer = HAProxyConsumer(config, Context("edge", Path(run_dir), structlog.get_logger()))
    await consumer.setup()
    snapshot = Snapshot.of(1, [backend(port=int(port)) for port in ports])
    await consumer.apply(Update(snapshot, None, diff(None, snapshot)))
    print("serving", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


ONE_VERSION = pytest.mark.parametrize("haproxy", sampled(["on-path", "wheel"]), indirect=True)


@ONE_VERSION
async def test_fifty_reloads_under_load_lose_no_request(
    drive: Drive, origins: tuple[Backend, ...], load: StartLoad
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(*origins)
        kept, closed = load(f"http://{bind}/"), load(f"http://{bind}/", keep_alive=False)
        for change in range(50):
            # Another option than the servers makes each change a reload.
            options = {"web": {"bind": bind, "maxconn": 1000 + change}}
            assert await driver.consumer.reconfigure(driver.configured(services=options))
            await driver.apply(*(origins[:2] if change % 2 else origins[1:]))
        counts = [await asyncio.to_thread(each.stop) for each in (kept, closed)]
        assert (await driver.processes()).reloads == 50
    print("requests and failures, kept alive and not:", counts)
    for requests, failed in counts:
        assert requests > 500
        assert failed == 0


async def test_stopping_lets_requests_in_flight_end(drive: Drive) -> None:
    bind_port, go_on = free_port(), asyncio.Event()
    services = {"web": {"bind": f"127.0.0.1:{bind_port}", "check": False}}
    async with serving(after(go_on)) as origin, drive(services=services) as driver:
        await driver.apply(backend(port=origin.port))
        replies = [asyncio.create_task(get(bind_port)) for _ in range(5)]
        await eventually(lambda: len(origin.requests) == 5)
        stopping = asyncio.create_task(driver.consumer.teardown())
        await eventually(lambda: refuses(bind_port), "new connections to be refused")
        go_on.set()
        # HAProxy itself closes the connections, which the clients keep alive.
        assert all(reply.endswith(b"\r\n\r\nIt works!") for reply in await asyncio.gather(*replies))
        await stopping
        assert driver.all_processes() == []
        assert not driver.has_logged("were cut")


async def test_haproxy_survives_a_killed_daemon_and_is_adopted(
    run_dir: Path,
    haproxy: Path,
    drive: Drive,
    origins: tuple[Backend, ...],
    load: StartLoad,
    fetch: Fetch,
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with _daemon(haproxy, run_dir, bind, str(origins[0].port)) as daemon:
        before = masters(haproxy_processes(run_dir))
        # With every request in its log, which nobody reads now, HAProxy must neither block nor die.
        kept, closed = load(f"http://{bind}/"), load(f"http://{bind}/", keep_alive=False)
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
    for _ in range(300):
        assert fetch(f"http://{bind}/").body == str(origins[0].port)

    async with drive(services={"web": {"bind": bind}}) as driver:
        assert [process.pid for process in masters(driver.all_processes())] == [process.pid for process in before]
        assert driver.has_logged("took over")
        await driver.apply(origins[1])
        assert [process.pid for process in masters(driver.all_processes())] == [process.pid for process in before]
        answers = {(await asyncio.to_thread(fetch, f"http://{bind}/")).body for _ in range(40)}
        assert answers == {str(origins[1].port)}
        counts = [await asyncio.to_thread(each.stop) for each in (kept, closed)]
        assert [failed for _, failed in counts] == [0, 0]
        assert all(requests > 300 for requests, _ in counts)
    assert driver.all_processes() == []


@pytest.mark.costly
async def test_a_surviving_haproxy_of_another_version_is_replaced(
    run_dir: Path,
    haproxy: Path,
    other_haproxy: Path,
    drive: Drive,
    origins: tuple[Backend, ...],
    load: StartLoad,
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with _daemon(other_haproxy, run_dir, bind, str(origins[0].port)) as daemon:
        before = {process.pid for process in masters(haproxy_processes(run_dir))}
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()

    async with drive(services={"web": {"bind": bind}}) as driver:
        kept = load(f"http://{bind}/")
        await driver.apply(origins[1])
        await eventually(lambda: not before & {process.pid for process in driver.all_processes()}, "the old to be gone")
        assert {process.program for process in driver.all_processes()} == {os.path.realpath(haproxy)}
        assert len(masters(driver.all_processes())) == 1
        _, failed = await asyncio.to_thread(kept.stop)
        assert failed == 0


@pytest.mark.costly
async def test_a_surviving_haproxy_that_hangs_is_replaced(
    run_dir: Path,
    haproxy: Path,
    drive: Drive,
    origins: tuple[Backend, ...],
    fetch: Fetch,
) -> None:
    limits = Limits(adoption=0.2, stop=0.5)
    bind = f"127.0.0.1:{free_port()}"
    with _daemon(haproxy, run_dir, bind, str(origins[0].port)) as daemon:
        [master] = masters(haproxy_processes(run_dir))
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
    os.kill(master.pid, signal.SIGSTOP)

    async with drive(services={"web": {"bind": bind}}, limits=limits) as driver:
        await driver.apply(origins[1])
        await eventually(lambda: all(each.parent != master.pid for each in driver.all_processes()), "its worker to end")
        answers = {(await asyncio.to_thread(fetch, f"http://{bind}/")).body for _ in range(40)}
        assert answers == {str(origins[1].port)}
    assert driver.all_processes() == []


@pytest.mark.costly
async def test_only_one_of_two_surviving_haproxys_stays(
    run_dir: Path, haproxy: Path, drive: Drive, origins: tuple[Backend, ...]
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with _daemon(haproxy, run_dir, bind, str(origins[0].port)) as daemon:
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
    # As a daemon leaves it that dies while it replaces one by another.
    [first] = masters(haproxy_processes(run_dir))
    subprocess.Popen(  # noqa: ASYNC220 - the test waits for HAProxy's socket
        [haproxy, "-W", "-S", f"{run_dir}/master.sock,mode,600", "-f", run_dir / "haproxy.cfg"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    control = ControlSocket(run_dir / "master.sock")
    eventually_sync(lambda: control.listener_pid() not in (None, first.pid), "the second to listen")

    async def answers() -> bool:
        with suppress(ControlError):
            return await control.live_generation(1.0) is not None
        return False

    await eventually(answers, "the second's worker to answer", timeout=30)  # one that does not is not taken over
    async with drive(services={"web": {"bind": bind}}) as driver:
        await eventually(lambda: first.pid not in {each.pid for each in driver.all_processes()}, "the first to end")
        assert len(masters(driver.all_processes())) == 1
        assert driver.has_logged("took over")
    assert driver.all_processes() == []


@pytest.mark.costly
async def test_a_replaced_haproxy_with_an_open_connection_ends_with_the_daemon(
    run_dir: Path,
    other_haproxy: Path,
    drive: Drive,
    origins: tuple[Backend, ...],
) -> None:
    port = free_port()
    with _daemon(other_haproxy, run_dir, f"127.0.0.1:{port}", str(origins[0].port)) as daemon:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
    async with drive(services={"web": {"bind": f"127.0.0.1:{port}"}}, limits=Limits(stop=0.5)) as driver:
        await driver.apply(origins[1])
        assert len(masters(driver.all_processes())) == 2
    assert driver.all_processes() == []
    writer.close()


async def test_a_surviving_haproxy_that_was_not_replaced_ends_with_the_daemon(
    run_dir: Path, other_haproxy: Path, drive: Drive, origins: tuple[Backend, ...]
) -> None:
    with _daemon(other_haproxy, run_dir, f"127.0.0.1:{free_port()}", str(origins[0].port)) as daemon:
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()

    async with drive() as driver:
        assert driver.all_processes() != []
    assert driver.all_processes() == []


async def test_an_adopted_haproxy_that_crashes_before_the_first_snapshot_is_restarted(
    run_dir: Path, haproxy: Path, drive: Drive, origins: tuple[Backend, ...], fetch: Fetch
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with _daemon(haproxy, run_dir, bind, str(origins[0].port)) as daemon:
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
    # It died during a change: the file is not what HAProxy serves.
    config = run_dir / "haproxy.cfg"
    config.rename(run_dir / "haproxy.cfg.last-good")
    config.write_text("what was never proven\n")

    async with drive(services={"web": {"bind": bind}}) as driver:
        os.kill(driver.master, signal.SIGKILL)

        async def serves() -> bool:
            return bool((await asyncio.to_thread(fetch, f"http://{bind}/")).body == str(origins[0].port))

        await eventually(lambda: driver.has_logged("HAProxy started"), "it to be started again")
        assert await serves()


@ONE_VERSION
async def test_stopping_under_load_cuts_no_request(drive: Drive, origins: tuple[Backend, ...]) -> None:
    async def ask(port: int, asked: asyncio.Semaphore) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].split()[0])
                assert len(await reader.readexactly(length)) == length
                asked.release()
                if "connection: close" in head:
                    return "told to go"
        finally:
            writer.close()

    port = free_port()
    async with drive(services={"web": {"bind": f"127.0.0.1:{port}"}}) as driver:
        await driver.apply(*origins)
        asked = asyncio.Semaphore(0)
        asks = [asyncio.create_task(ask(port, asked)) for _ in range(16)]
        for _ in range(500):
            await asked.acquire()
        await driver.consumer.teardown()
        assert await asyncio.gather(*asks) == ["told to go"] * 16


@ONE_VERSION
async def test_stopping_does_not_wait_for_idle_clients(drive: Drive, origins: tuple[Backend, ...]) -> None:
    port = free_port()
    timeouts = {"http_keep_alive": "10m"}
    async with drive(services={"web": {"bind": f"127.0.0.1:{port}", "timeouts": timeouts}}) as driver:
        await driver.apply(origins[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await driver.consumer.teardown()
        assert driver.all_processes() == []
        # Not after the time that requests in flight would get.
        assert not driver.has_logged("were cut")
        assert driver.has_logged("HAProxy stopped")
        writer.close()


@ONE_VERSION
async def test_connections_that_do_not_end_in_time_are_cut_and_counted(drive: Drive) -> None:
    arrived = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = free_port()
        services = {"web": {"bind": f"127.0.0.1:{port}", "check": False}}
        async with drive(services=services, limits=Limits(stop=0.5)) as driver:
            await driver.apply(backend(port=server.sockets[0].getsockname()[1]))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            await arrived.wait()
            await driver.consumer.teardown()
            assert driver.has_logged("'count': 1")
            assert driver.has_logged("were cut")
            assert driver.all_processes() == []
            assert await reader.read() == b""
            writer.close()


def _daemon(*arguments: object) -> subprocess.Popen[bytes]:
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, *map(str, arguments)], stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    eventually_sync(lambda: b"serving" in daemon.stdout.readline(), "the daemon to serve", timeout=60)  # type: ignore[union-attr]
    return daemon
