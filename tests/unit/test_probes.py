"""The probes but HTTP's own, against real servers and programs."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from checking import D, F, P
from web import ask, serving

from discovery.checks import NamedProbe, Outcome, Probe
from discovery.probes import CommandProbe, HttpProbe, ReportedProbe, TcpProbe
from discovery.system.lookups import RememberedLookups
from discovery.testing import backend, cannot_run, eventually, free_port, require_program, within


async def test_tcp_passes_where_something_listens_and_leaves_nothing_open() -> None:
    async with serving() as server:
        assert await ask(TcpProbe(), server.port) == Outcome()
        assert await ask(TcpProbe(("127.0.0.1", server.port)), free_port()) == Outcome()
        await eventually(lambda: server.connections == 2 and server.open == 0)


@pytest.mark.parametrize("probe", [TcpProbe(), HttpProbe()])
async def test_where_nothing_listens_the_connection_is_refused(probe: Probe) -> None:
    assert await ask(probe, free_port()) == Outcome(F, "connection refused")


@pytest.mark.parametrize("probe", [TcpProbe(), HttpProbe()])
async def test_a_name_that_does_not_exist_fails_with_the_reason(probe: Probe) -> None:
    outcome = await ask(probe, host="no-such-host.invalid")
    assert outcome.verdict is F
    assert "name" in outcome.detail


@pytest.mark.parametrize("probe", [TcpProbe(), HttpProbe()])
def test_a_name_whose_lookup_hangs_is_looked_up_once_at_a_time_and_delays_no_end(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, under_way = threading.Event(), threading.Semaphore(1)
    twice = []

    def hang(*arguments: Any, **options: Any) -> Any:
        twice.extend([1] if not under_way.acquire(blocking=False) else [])
        answer.wait(within(20))
        under_way.release()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    assert isinstance(probe, NamedProbe)
    probe = probe.with_lookup(RememberedLookups())

    async def ask_again_and_again() -> None:
        for _ in range(4):
            with suppress(TimeoutError):
                await asyncio.wait_for(ask(probe, host="slow.invalid"), 0.1)
        asking = asyncio.create_task(ask(probe, host="slow.invalid"))
        await asyncio.sleep(0)
        answer.set()
        assert await asking == Outcome(F, "temporary failure in name resolution")
        answer.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(ask(probe, host="slower.invalid"), 0.1)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    asyncio.run(asyncio.wait_for(ask_again_and_again(), within(15)))
    assert not under_way.acquire(blocking=False)  # it still hangs, and nobody has waited for it
    answer.set()
    assert under_way.acquire(timeout=within(10))
    assert not twice


async def test_a_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:
        stream = socket.AF_INET, socket.SOCK_STREAM, 6, ""
        both = [(*stream, ("127.0.0.2", 0)), (*stream, ("127.0.0.1", 0))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        assert await ask(TcpProbe(), server.port, "two.invalid") == Outcome()
        assert (await ask(HttpProbe(), server.port, "two.invalid")).verdict is P
        assert f"Host: two.invalid:{server.port}\r\n".encode() in server.requests[-1]


async def test_over_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        cannot_run("there is no IPv6 here")
    async with serving(host="::1") as server:
        assert (await ask(TcpProbe(), server.port, "::1")).verdict is P
        assert (await ask(HttpProbe(body="works"), server.port, "::1")).verdict is P
        assert f"Host: [::1]:{server.port}\r\n".encode() in server.requests[0]


def test_a_connection_to_itself_is_none() -> None:
    """A port of this machine may be the one from which the probe connects: it then meets itself, and nobody else."""
    require_program("unshare", wheel=False)
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode != 0:
        cannot_run("no network namespaces here")
    code = """if True:
        import asyncio
        from discovery.probes import TcpProbe
        from discovery.testing import backend
        async def main():
            print([(await TcpProbe()(backend(port=40_000))).verdict.value for _ in range(200)].count("passing"))
        asyncio.run(main())
    """
    setup = 'ip link set lo up; echo "40000 40003" > /proc/sys/net/ipv4/ip_local_port_range; exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-ec", setup, sys.executable, code], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def python(code: str, **options: Any) -> CommandProbe:
    return CommandProbe((sys.executable, "-c", code), **options)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("print(); print(' fine ')", Outcome(P, "fine")),
        ("", Outcome(P, "")),
        ("raise SystemExit('no page')", Outcome(F, "no page")),
        ("raise SystemExit(3)", Outcome(F, "exit status 3")),
        ("print('two workers'); raise SystemExit(75)", Outcome(D, "two workers")),
        ("raise SystemExit(75)", Outcome(D, "exit status 75")),
        ("import os; os.kill(os.getpid(), 9)", Outcome(F, "killed: Killed")),
    ],
)
async def test_the_exit_status_decides_and_the_first_line_tells_why(code: str, outcome: Outcome) -> None:
    assert await ask(python(code)) == outcome


async def test_another_status_may_say_draining() -> None:
    assert (await ask(python("raise SystemExit(2)", draining_exit=2))).verdict is D
    assert (await ask(python("raise SystemExit(75)", draining_exit=2))).verdict is F
    assert (await ask(python("raise SystemExit(75)", draining_exit=None))).verdict is F


async def test_it_is_told_the_backend_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCOVERY_REGISTRY_PASSWORD", "secret")
    told = "k.startswith('DISCOVERY_') and not k.startswith('DISCOVERY_TEST_')"
    code = f"import os; print(sorted(v for k, v in os.environ.items() if {told}))"
    async with asyncio.timeout(within(20)):
        outcome = await python(code)(backend("web", "x", "10.0.0.5", 81))
    assert outcome.detail == "['10.0.0.5', '81', 'web', 'x']"


async def test_there_is_no_shell_and_no_standard_input() -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read() == '')"
    probe = CommandProbe((sys.executable, "-c", code, "$HOME; echo *"))
    assert (await ask(probe)).detail == "['$HOME; echo *'] True"


async def test_much_output_neither_blocks_it_nor_is_kept() -> None:
    outcome = await ask(python("print('x' * 50_000_000)"))
    assert outcome.verdict is P
    assert outcome.detail == "x" * 1024


async def test_a_program_that_is_missing_fails() -> None:
    assert await ask(CommandProbe(("/no/such/program",))) == Outcome(F, "/no/such/program: no such file or directory")


async def test_what_a_program_leaves_behind_does_not_delay_its_outcome(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = (
        f"import subprocess; open({str(file)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); print('ok')"
    )
    try:
        assert await ask(python(code)) == Outcome(P, "ok")
    finally:
        os.kill(int(file.read_text()), 9)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_when_its_time_is_over_it_is_killed_with_its_children_and_reaped(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    code = f"""if True:
        import os, signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"])
        open({str(file)!r}, "w").write(f"{{os.getpid()}} {{child.pid}} ")
        signal.pause()
    """
    running = asyncio.ensure_future(python(code)(backend()))
    await eventually(lambda: file.read_text().endswith(" "))
    parent, child = map(int, file.read_text().split())
    assert os.getsid(parent) == parent != os.getsid(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not Path(f"/proc/{parent}").exists()
    await eventually(lambda: gone(child))


async def test_probes_leave_no_descriptors_open() -> None:
    async with serving() as server:
        probes: list[Probe] = [TcpProbe(), HttpProbe(), python("print(1)"), CommandProbe(("/no/such/program",))]

        async def all_of_them() -> None:
            for probe in probes:
                await ask(probe, server.port)
            await eventually(lambda: server.open == 0)

        await all_of_them()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(5):
            await all_of_them()
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)  # noqa: PTH208


async def test_what_is_reported_is_told() -> None:
    outcome = Outcome(F, "unhealthy")
    assert await ask(ReportedProbe(outcome)) is outcome
