"""The consumer as the core drives it, with real workers, clients and backends."""

import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from discovery import ApplyError, State
from discovery.testing import ConsumerContract, backend, eventually, free_port, snapshot
from discovery_tcpproxy.consumer import TcpProxyConsumer

from .driving import Client, Driven, address, driving, origins, reached, served


async def test_connections_reach_the_backends_and_carry_data_both_ways() -> None:
    web = address()
    async with origins("a", "b") as (a, b), driving(listen={"web": web}) as driven:
        await driven.apply(a.backend(), b.backend())
        assert {await reached(web) for _ in range(4)} == {"a", "b"}
        client = await Client.to(web)
        assert await client.greeting() in "ab"
        assert await client.echoes()
        client.close()
        assert await driven.healthy()


async def test_every_kind_of_address_is_listened_on(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tp-") as directory:
        binds = [address(), f"[::1]:{free_port()}", f"unix:{directory}/web.sock"]
        async with origins("a") as (a,), driving(listen={"web": binds}) as driven:
            await driven.apply(a.backend())
            assert [await reached(bind) for bind in binds] == ["a", "a", "a"]
        assert not Path(directory, "web.sock").exists()


async def test_each_listener_serves_its_own_service() -> None:
    web, db = address(), address()
    listen = {"web": web, "other": {"bind": db, "service": "db"}}
    async with origins("a", "b") as (a, b), driving(listen=listen) as driven:
        await driven.apply(a.backend(), b.backend(service="db"))
        assert (await reached(web), await reached(db)) == ("a", "b")


async def test_the_log_names_the_option_of_a_directory_where_host_names_cannot_be_saved(tmp_path: Path) -> None:
    driven = Driven(tmp_path, listen={"web": {"bind": address(), "targets": "localhost:1"}})
    (tmp_path / "names.json").mkdir()
    try:
        await driven.consumer.setup()
        await eventually(lambda: driven.said("cannot be remembered"), timeout=60)
        assert driven.said("choose another directory with --run-dir")
        assert not driven.said("--state-dir")
    finally:
        await driven.consumer.teardown()


async def test_clients_wait_for_the_first_snapshot() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}) as driven:
        client = await Client.to(web)
        await eventually(lambda: driven.figure("connections_waiting") == 1)
        assert (await driven.inspect())["listeners"][0]["known"] is False
        await driven.apply(a.backend())
        assert await client.greeting() == "a"
        client.close()


async def test_clients_of_an_empty_service_wait_for_a_backend() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}) as driven:
        await driven.apply()
        assert (await driven.inspect())["listeners"][0]["known"] is True
        client = await Client.to(web)
        await eventually(lambda: driven.figure("connections_waiting") == 1)
        await driven.apply(a.backend())
        assert await client.greeting() == "a"
        client.close()


async def test_draining_backends_keep_connections_and_receive_no_new_clients() -> None:
    web = address()
    async with origins("a", "b") as (a, b), driving(listen={"web": web}) as driven:
        await driven.apply(a.backend())
        client = await Client.to(web)
        assert await client.greeting() == "a"
        await driven.apply(a.backend(state=State.DRAINING), b.backend())
        assert {await reached(web) for _ in range(4)} == {"b"}
        assert await client.echoes()
        client.close()


@pytest.mark.parametrize(
    ("options", "goes_on"),
    [({}, True), ({"on_leave": "close"}, False), ({"drain": 0.1}, False), ({"drain": 300}, True)],
)
async def test_options_decide_about_connections_to_a_removed_backend(options: dict[str, Any], goes_on: bool) -> None:
    web = address()
    async with origins("a", "b") as (a, b), driving(listen={"web": {"bind": web, **options}}) as driven:
        await driven.apply(a.backend())
        client = await Client.to(web)
        assert await client.greeting() == "a"
        await driven.apply(b.backend())
        assert await reached(web) == "b"
        if goes_on:
            assert await client.echoes()
        else:
            assert await client.is_closed()
        client.close()


async def test_listeners_are_added_moved_and_removed_and_other_connections_go_on() -> None:
    web, db, moved, added = (address() for _ in range(4))
    async with origins("a", "b") as (a, b), driving(listen={"web": web, "db": db}) as driven:
        await driven.apply(a.backend(), b.backend(service="db"))
        [pid] = await driven.pids()
        clients = [await Client.to(web), await Client.to(db)]
        assert [await each.greeting() for each in clients] == ["a", "b"]
        await driven.reconfigure(listen={"web": moved, "more": {"bind": [added], "service": "db"}})
        assert [await each.echoes() for each in clients] == [True, True]
        assert [await reached(each) for each in (moved, added)] == ["a", "b"]
        for gone in (web, db):
            with pytest.raises(ConnectionRefusedError):
                await Client.to(gone)
        await driven.reconfigure(listen={"web": web, "db": db})
        assert [await reached(each) for each in (web, db)] == ["a", "b"]
        assert [await each.echoes() for each in clients] == [True, True]
        assert await driven.pids() == [pid]
        assert await driven.healthy()
        for each in clients:
            each.close()


async def test_an_address_moves_to_another_listener_within_one_reload() -> None:
    one, other = address(), address()
    wide = f"0.0.0.0:{one.rpartition(':')[2]}"
    async with origins("a", "b") as (a, b), driving(listen={"web": one, "db": other}) as driven:
        await driven.apply(a.backend(), b.backend(service="db"))
        await driven.reconfigure(listen={"web": other, "db": one})
        assert (await reached(other), await reached(one)) == ("a", "b")
        await driven.reconfigure(listen={"web": wide})
        assert await reached(one) == "a"
        assert await driven.healthy()


async def test_settings_change_in_place() -> None:
    web = address()
    async with origins("a", "b") as (a, b), driving(listen={"web": web}) as driven:
        await driven.apply(a.backend(), b.backend(service="db"))
        client = await Client.to(web)
        assert await client.greeting() == "a"
        await driven.reconfigure(listen={"web": {"bind": web, "deny": "127.0.0.0/8"}})
        assert await served(web) is None
        assert await client.echoes()
        await driven.reconfigure(listen={"web": {"bind": web, "service": "db"}})
        assert await reached(web) == "b"
        assert await client.echoes()
        client.close()


async def test_the_number_of_workers_changes_and_connections_continue() -> None:
    web = address()
    async with origins("a") as (a,), driving(listen={"web": web}, workers=3) as driven:
        await driven.apply(a.backend())
        assert len(await driven.pids()) == 3
        clients = [await Client.to(web) for _ in range(30)]
        assert {await each.greeting() for each in clients} == {"a"}
        await driven.reconfigure(listen={"web": web}, workers=1)
        assert all([await each.echoes() for each in clients])
        assert await reached(web) == "a"
        await driven.reconfigure(listen={"web": web}, workers=2)
        assert all([await each.echoes() for each in clients])
        for each in clients:
            each.close()
        await eventually(lambda: driven.has_workers(2))
        assert driven.figure("connections") == 31


async def test_a_listener_that_cannot_be_opened_affects_no_other_and_is_opened_later() -> None:
    web, busy = address(), address()
    host, _, port = busy.rpartition(":")
    with socket.create_server((host, int(port))) as holder:
        async with (
            origins("a") as (a,),
            driving(listen={"web": web, "busy": {"bind": busy, "service": "web"}}) as driven,
        ):
            await driven.apply(a.backend())
            assert await reached(web) == "a"
            health = await driven.consumer.health()
            assert not health.ok
            assert health.detail.startswith(f"listener busy cannot listen on {busy}: address already in use")
            assert (driven.figure("listening", listener="web"), driven.figure("listening", listener="busy")) == (1, 0)
            [_, told] = (await driven.inspect())["listeners"]
            assert told["addresses"] == [{"address": busy, "open": False, "problem": health.detail}]
            holder.close()
            await eventually(driven.healthy, timeout=30)
            assert await reached(busy) == "a"


async def test_setup_fails_with_the_reason_if_no_listener_can_be_opened() -> None:
    busy = address()
    host, _, port = busy.rpartition(":")
    told = f"listener web cannot listen on {busy}: address already in use"
    with socket.create_server((host, int(port))), pytest.raises(ApplyError, match=told):
        async with driving(listen={"web": busy}):
            pass


async def test_a_removed_socket_file_is_created_again() -> None:
    with tempfile.TemporaryDirectory(prefix="tp-") as directory:
        path = Path(directory, "web.sock")
        async with origins("a") as (a,), driving(listen={"web": f"unix:{path}"}) as driven:
            await driven.apply(a.backend())
            client = await Client.to(f"unix:{path}")
            assert await client.greeting() == "a"
            path.unlink()
            await eventually(path.exists)
            await eventually(lambda: reached(f"unix:{path}"))
            assert await client.echoes()
            assert await driven.healthy()
            client.close()


class TestTcpProxyConsumer(ConsumerContract):
    consumer = TcpProxyConsumer
    port = free_port()
    config: ClassVar[Mapping[str, Any]] = {"listen": {"web": f"127.0.0.1:{port}"}, "grace": 0}
    snapshots = (
        snapshot(backend(id="a", port=1), revision=1),
        snapshot(backend(id="b", port=2), backend(id="c", port=3), revision=2),
    )
    driven: ClassVar[list[TcpProxyConsumer]] = []

    def _make(self, run_dir: Path, state_dir: Path | None = None) -> Any:
        made = super()._make(run_dir, state_dir)
        self.driven.append(made)
        return made

    def world(self, run_dir: Path) -> object:
        """What each worker has been told, and says that it has done."""
        return [dict(each._targets) for each in self.driven[-1]._workers.running]

    def sabotage(self, run_dir: Path) -> AbstractContextManager[object]:
        """Workers can neither be spoken to nor started."""

        @contextmanager
        def broken() -> Iterator[None]:
            [worker] = self.driven[-1]._workers.running
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("sys.executable", "/nowhere/python")
                worker.kill()
                yield

        return broken()

    @pytest.mark.exhaustive
    def test_a_successor_goes_on(self) -> None:
        super().test_a_successor_goes_on()

    @pytest.mark.exhaustive
    def test_another_configuration_is_adopted_or_refused(self) -> None:
        super().test_another_configuration_is_adopted_or_refused()
