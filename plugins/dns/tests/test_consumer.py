"""The consumer as the core drives it, with real sockets."""

import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import dns.rcode
import pytest
from namespaces import in_a_network_of_its_own
from structlog.testing import capture_logs

from discovery import ApplyError, Snapshot, Update, diff, split_host_port
from discovery.testing import ConsumerContract, backend, cannot_run, eventually, free_port, require_program, snapshot
from discovery_dns.consumer import DnsConsumer
from discovery_dns.limits import Limits

from .asking import data, query
from .driving import Driven, TcpClient, UdpClient, address, driving, tcp, udp

WEB = backend(host="10.0.0.1")
OTHER = backend(host="10.0.0.2")


class Remembered(DnsConsumer):
    """A consumer that the contract's `world` can find by its run directory, from its setup on."""

    by_directory: ClassVar[dict[Path, DnsConsumer]] = {}

    async def setup(self) -> None:
        self.by_directory[self.context.run_dir] = self
        await super().setup()


class TestContract(ConsumerContract):
    consumer = Remembered
    config: ClassVar[Mapping[str, Any]] = {"listen": address()}

    def world(self, run_dir: Path) -> object:
        running = Remembered.by_directory.get(run_dir)
        zone = running._responder.zone if running is not None else None
        return [] if zone is None else list(zone.lines())


Clients = tuple[UdpClient, TcpClient]


async def clients_that_ask(bind: str) -> Clients:
    """A client of each transport, whose query waits in the queue of the server's socket."""
    clients = UdpClient(bind), await TcpClient.to(bind)
    for each in clients:
        each.send(query("web").to_wire())
    return clients


def close(clients: Clients) -> None:
    for each in clients:
        each.close()


async def test_queries_are_answered_over_udp_and_tcp() -> None:
    binds = [address(), f"[::1]:{free_port()}"]
    async with driving(listen=binds) as driven:
        await driven.apply(WEB)
        for bind in binds:
            assert data(await udp(bind, "web")) == ["10.0.0.1"]
            assert data(await tcp(bind, "web")) == ["10.0.0.1"]
        assert driven.figure("queries") == 4
        assert (await driven.consumer.health()).ok


async def test_an_answer_comes_from_the_address_that_was_asked() -> None:
    port = free_port()
    async with driving(listen=[f"0.0.0.0:{port}", f"[::]:{port}"]) as driven:
        await driven.apply(WEB)
        for bind in (f"127.0.0.1:{port}", f"127.0.0.9:{port}", f"[::1]:{port}"):
            assert data(await udp(bind, "web")) == ["10.0.0.1"]  # dnspython takes no answer of another address


async def test_before_the_first_snapshot_queries_wait_and_then_fail() -> None:
    bind = address()
    async with driving(listen=bind) as driven:
        clients = await clients_that_ask(bind)
        await driven.apply(WEB)
        assert [data(await each.answer()) for each in clients] == [["10.0.0.1"], ["10.0.0.1"]]
        close(clients)
    bind = address()
    async with driving(listen=bind, limits=Limits(first_apply=0)) as driven:
        assert (await udp(bind, "web")).rcode() == dns.rcode.SERVFAIL
        await driven.apply(WEB)
        assert data(await udp(bind, "web")) == ["10.0.0.1"]
        await driven.apply()
        assert (await udp(bind, "web")).rcode() == dns.rcode.NXDOMAIN


async def test_a_changed_address_of_a_host_name_is_answered() -> None:
    bind, named = address(), backend("db", host="db.example.com", port=5432)
    async with driving(listen=bind) as driven:
        for found in (("192.0.2.1",), ("192.0.2.2",), ()):
            await driven.apply(named, known={("db.example.com", 5432): found})
            assert data(await udp(bind, "db")) == list(found)


async def test_an_address_in_use_is_told_with_its_holder_and_opened_later() -> None:
    first, second = address(), address()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(split_host_port(second))
        with (
            pytest.raises(ApplyError, match=r"already in use over UDP by .*process") as caught,
            capture_logs() as lines,
        ):
            async with driving(listen=second):
                pass
        assert second in str(caught.value)
        assert lines == [], "the core tells the reason, once for all attempts"
        with capture_logs() as lines:
            async with driving(listen=[first, second], limits=Limits(retry=0.02)) as driven:
                await driven.apply(WEB)
        told = [each["reason"] for each in lines if each["log_level"] == "error"]
        assert len(told) == 1
        assert second in told[0]
        async with driving(listen=[first, second], limits=Limits(retry=0.02)) as driven:
            await driven.apply(WEB)
            assert data(await udp(first, "web")) == ["10.0.0.1"]
            health = await driven.consumer.health()
            assert (health.ok, "already in use over UDP" in health.detail) == (False, True)
            assert second in (await driven.consumer.inspect())["not_listening"]
            taken.close()
            await eventually(lambda: not driven.consumer._listeners.errors)  # type: ignore[union-attr]
            assert data(await udp(second, "web")) == ["10.0.0.1"]
            assert (await driven.consumer.health()).ok


async def test_a_reload_changes_everything_and_closes_no_address_that_stays() -> None:
    first, second, third = address(), address(), address()
    async with driving(listen=[first, second]) as driven:
        await driven.apply(WEB)
        client = await TcpClient.to(first)
        config = DnsConsumer.Config.model_validate(
            {"listen": [first, third], "domain": "lan.example.", "ttl": "30s", "negative_ttl": 60}
        )
        sockets = driven.consumer._listeners._listeners[first].sockets  # type: ignore[union-attr]
        assert await driven.consumer.reconfigure(config)  # type: ignore[arg-type]
        assert driven.consumer._listeners._listeners[first].sockets is sockets  # type: ignore[union-attr]
        for bind in (first, third):
            answer = await udp(bind, "web.lan.example.")
            assert (data(answer), answer.answer[0].ttl) == (["10.0.0.1"], 30)
        assert (await udp(first, "web")).rcode() == dns.rcode.REFUSED
        client.send(query("web.lan.example.").to_wire())
        assert data(await client.answer()) == ["10.0.0.1"]
        client.close()
        with pytest.raises(OSError, match="111"):
            await tcp(second, "web")


async def test_a_successor_takes_the_sockets_and_no_query_is_lost() -> None:
    bind = address()
    async with driving(listen=bind) as old:
        await old.apply(WEB)
        handed_over = await old.consumer.hand_over()
        assert data(await udp(bind, "web")) == ["10.0.0.1"]  # nobody waits for the successor
        async with driving(handed_over, listen=bind) as new:
            await old.consumer.teardown()
            clients = await clients_that_ask(bind)
            await new.apply(OTHER)
            assert [data(await each.answer()) for each in clients] == [["10.0.0.2"], ["10.0.0.2"]]
            close(clients)
    assert all(each.fileno() == -1 for each in handed_over)


@pytest.mark.exhaustive
async def test_a_packet_from_port_0_which_nobody_can_answer_is_passed_over() -> None:
    if os.geteuid() != 0:
        cannot_run("takes root, to forge the sender's port")
    bind = address()
    async with driving(listen=bind) as driven:
        await driven.apply(WEB)
        host, port = split_host_port(bind)
        packet = query("web").to_wire()
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as forging:
            forging.sendto(struct.pack("!HHHH", 0, port, 8 + len(packet), 0) + packet, (host, 0))
        await eventually(lambda: driven.figure("dropped") == 1)
        assert data(await udp(bind, "web")) == ["10.0.0.1"]


async def test_services_without_a_name_are_problems_and_hurt_no_other() -> None:
    bind = address()
    async with driving(listen=bind) as driven:
        await driven.apply(WEB, backend("x" * 64), backend("a..b"), backend("WEB", host="10.0.0.9"))
        assert data(await udp(bind, "web")) == ["10.0.0.9"]  # the first in sorted order
        left_out = (await driven.consumer.inspect())["left_out"]
        assert sorted(left_out) == ["a..b", "web", "x" * 64]
        assert left_out["web"] == "domain names ignore case, and the service 'WEB' has the name"
        health = await driven.consumer.health()
        assert (health.ok, health.state) == (True, "degraded")
        assert health.problems == {f"service {name}": reason for name, reason in left_out.items()}
        await driven.apply(WEB)
        assert data(await udp(bind, "web")) == ["10.0.0.1"]
        assert (await driven.consumer.health()).state == "ok"


async def test_many_services_without_a_name_are_counted() -> None:
    async with driving(listen=address()) as driven:
        await driven.apply(*(backend(f"a..{n}") for n in range(500)))
        problems = (await driven.consumer.health()).problems
        assert len(problems) == 21
        assert problems["services"].startswith("500 have no domain name of their own")


async def test_a_preview_shows_the_records_that_change(tmp_path: Path) -> None:
    driven = Driven(tmp_path)
    before, after = snapshot(WEB), snapshot(WEB, backend(id="b", host="2001:db8::1"))
    assert await driven.consumer.preview(Update(after, after, diff(after, after))) == ""
    shown = await driven.consumer.preview(Update(after, before, diff(before, after)))
    assert "+web.service.internal. 5 IN AAAA 2001:db8::1\n" in shown
    assert "+_web._tcp.service.internal. 5 IN SRV 0 1 8080 2001-0db8-0000-0000-0000-0000-0000-0001.addr" in shown
    assert " web.service.internal. 5 IN A 10.0.0.1\n" in shown


async def test_a_fault_of_a_query_ends_nothing_and_is_told() -> None:
    bind, named = address(), backend("db", host="db.example.com", port=5432)
    async with driving(listen=bind) as driven:
        await driven.apply(WEB, named, known={("db.example.com", 5432): ("no address",)})
        assert (await udp(bind, "db")).rcode() == dns.rcode.SERVFAIL
        assert data(await udp(bind, "web")) == ["10.0.0.1"]
        health = await driven.consumer.health()
        assert (health.state, "illegal IP address" in health.problems["queries"]) == ("degraded", True)


async def test_the_addresses_to_listen_on_are_told(tmp_path: Path) -> None:
    driven = Driven(tmp_path, listen=["127.0.0.1:53", "[::1]:53"])
    empty = Snapshot.of(0, ())
    validation = await driven.consumer.validate(Update(empty, None, diff(None, empty)))
    assert (validation.faults, validation.listens) == ((), ("127.0.0.1:53", "[::1]:53"))


def test_a_port_that_needs_a_capability_is_told_with_the_remedy() -> None:
    script = """
from discovery_dns.sockets import CannotListenError, open_sockets
try:
    open_sockets("127.0.0.1:53")
except CannotListenError as error:
    print(error)
"""
    require_program("setpriv", wheel=False)
    without = 'ip link set lo up; exec setpriv --bounding-set=-net_bind_service "$0" -c "$1"'
    told = in_a_network_of_its_own(without, script)
    assert told.startswith(
        "cannot listen on 127.0.0.1:53: permission denied; ports below 1024 require CAP_NET_BIND_SERVICE"
    )
