"""HAProxy's statistics of servers as CSV."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from discovery import Snapshot
from discovery.testing import backend, eventually, free_port
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.program.control_socket import ControlSocket
from discovery_haproxy.program.down_servers import MOST_SERVERS, DownServers, lines_of, unread
from discovery_haproxy.program.statistics import SectionRow, parse_down, parse_sections
from discovery_haproxy.rendering.render import Runtime, render
from discovery_haproxy.rendering.sections import BackendSection

HEADER = "# pxname,svname,status,act,bck,lastchg,iid,check_status,check_code,last_chk,\n"


def test_sections_tell_how_many_servers_are_up() -> None:
    answer = f"{HEADER}web,BACKEND,UP,2,1,5,3,,,,\ndb,BACKEND,DOWN,,,5,4,,,,\n\n"
    assert parse_sections(answer) == [SectionRow("web", 3, 3), SectionRow("db", 4, 0)]


def test_only_what_a_check_finds_down_is_down() -> None:
    rows = (
        "web,a,UP,1,0,5,3,L4OK,,,",
        "web,b,DOWN,0,0,7,3,L4CON,,Connection refused,",
        'web,c,DOWN 1/2,0,0,7,3,* L7STS,503,"Service, quoted ""x""",',
        "web,d,MAINT,0,0,7,3,,,,",
        "web,e,DRAIN,0,0,7,3,L4OK,,,",
        "web,f,no check,1,0,7,3,,,,",
        "web,g,UP 1/3,1,0,7,3,L4TOUT,,,",
        "web,h,DOWN,0,0,,3,,,,",
    )
    assert parse_down(HEADER + "\n".join(rows)) == {
        "b": "HAProxy's check: L4CON Connection refused, for 7 s",
        "c": 'HAProxy\'s check: L7STS 503 Service, quoted "x", for 7 s',
        "h": "HAProxy's check: no check has passed",
    }


def test_no_more_are_reported_as_down_than_anybody_shows() -> None:
    rows = "\n".join(f"web,b{number},DOWN,0,0,7,3,L4CON,,," for number in range(9))
    assert list(parse_down(HEADER + rows, 2)) == ["b0", "b1"]


@pytest.mark.parametrize("answer", ["", "Unknown command", "1\n# be_id be_name"])
def test_another_answer_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="show stat"):
        parse_down(answer)


@pytest.mark.parametrize("parse", [parse_sections, parse_down])
def test_a_row_that_is_cut_off_is_refused(parse: Callable[[str], object]) -> None:
    head = "# pxname,svname,note,status,act,bck,lastchg,iid,\n"
    with pytest.raises(ValueError, match="cut off"):
        parse(f"{head}web,b,,DOWN 1/2,1,0,5,3,\nweb,,DOWN")


async def test_what_is_down_stays_so_while_nothing_can_be_read(tmp_path: Path) -> None:
    """A change, a reload that cuts an answer off, and then a reading as before."""
    answers = {
        "show stat -1 2 -1": f"{HEADER}web,BACKEND,UP,1,0,5,3,,,,\n",
        "show stat 3 4 -1": f"{HEADER}web,b1,DOWN,0,0,7,3,L4CON,,,\nweb,b2,UP,1,0,7,3,L4OK,,,\n",
    }
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode().strip())
        writer.write(answers[asked[-1]].encode())
        writer.close()

    path = tmp_path / "stats.sock"
    socket: ControlSocket | None = ControlSocket(path, master=False)
    looked = 0

    def statistics() -> ControlSocket | None:
        nonlocal looked
        looked += 1
        return socket

    config = HAProxyConfig.model_validate({"services": {"web": {"bind": f"127.0.0.1:{free_port()}", "check": True}}})
    snapshot = Snapshot.of(1, [backend("web", "b1"), backend("web", "b2")])
    down = DownServers(statistics, structlog.get_logger(), every=0.01)
    async with await asyncio.start_unix_server(serve, path):
        down.follow(render(config, snapshot, Runtime(), {}).sections.services)
        down.start()
        await eventually(lambda: list(down.known) == ["web/b1"])
        assert down.watched == {"web"}
        before, socket, seen = down.known, None, looked
        await eventually(lambda: looked > seen + 1)
        assert down.known == before
        whole, answers["show stat -1 2 -1"] = answers["show stat -1 2 -1"], f"{HEADER}web,BACK"
        socket, seen = ControlSocket(path, master=False), looked
        await eventually(lambda: looked > seen + 2)
        assert down.known == before
        answers["show stat -1 2 -1"] = whole.replace("UP,1", "UP,2")
        await eventually(lambda: not down.known)
        assert down.watched == {"web"}, "it is known that none is down"
        await down.stop()


async def test_of_ten_thousand_servers_the_one_that_is_down_is_found(tmp_path: Path) -> None:
    config = HAProxyConfig.model_validate({"services": {"web": {"bind": f"127.0.0.1:{free_port()}"}}})
    rows = "".join(f"web,b{number},{'UP' if number else 'DOWN'},1,0,7,3,L4OK,,,\n" for number in range(10_000))
    answers = {"show stat -1 2 -1": f"{HEADER}web,BACKEND,UP,9999,0,5,3,,,,\n", "show stat 3 4 -1": HEADER + rows}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[(await reader.readline()).decode().strip()].encode())
        writer.close()

    down = DownServers(lambda: ControlSocket(tmp_path / "stats.sock", master=False), structlog.get_logger(), every=0.01)
    snapshot = Snapshot.of(1, [backend("web", f"b{number}") for number in range(10_000)])
    async with await asyncio.start_unix_server(serve, tmp_path / "stats.sock"):
        down.follow(render(config, snapshot, Runtime(), {}).sections.services)
        down.start()
        await eventually(lambda: list(down.known) == ["web/b0"])
        assert down.watched == {"web"}
        await down.stop()


def test_a_section_of_very_many_servers_is_told_not_to_be_read() -> None:
    services = {"web": {"bind": "127.0.0.1:8000"}, "api": {"bind": "127.0.0.1:8001", "check": False}}
    config = HAProxyConfig.model_validate({"services": services})

    def sections(count: int) -> tuple[BackendSection, ...]:
        backends = [backend(service, f"b{number}") for service in services for number in range(count)]
        return render(config, Snapshot.of(1, backends), Runtime(), {}).sections.services

    few, many = sections(MOST_SERVERS), sections(MOST_SERVERS + 1)
    assert unread(few) == {}
    assert unread(many) == {"web": "its 20,001 servers are more than 20,000"}, "api has no checks"
    told = lines_of(many, ["web/b7", "api/b7"])
    assert told["web/b7"][1:] == (
        "backend web: whether the server is down is not read: its 20,001 servers are more than 20,000",
    )
    assert len(told["api/b7"]) == len(lines_of(few, ["web/b7"])["web/b7"]) == 1
