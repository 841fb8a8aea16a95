"""A HAProxy of our own: what happens when it, its surroundings or its configuration go wrong."""

import asyncio
import dataclasses
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from discovery.errors import ApplyError
from discovery.model import Backend, State
from discovery.testing import backend, eventually, free_port, within
from discovery_haproxy.consumer import HAProxyConsumer
from discovery_haproxy.digests import FileDigests
from discovery_haproxy.process import masters

Fetch = Callable[..., Any]
Drive = Callable[..., Any]
Origins = tuple[Backend, ...]


@pytest.fixture
def bind() -> str:
    return f"127.0.0.1:{free_port()}"


def serves(fetch: Fetch, bind: str, origin: Backend) -> Any:
    """Whether a request to the bind is answered by this origin."""

    async def check() -> bool:
        return bool((await asyncio.to_thread(fetch, f"http://{bind}/")).body == str(origin.port))

    return eventually(check, f"{bind} to be answered by {origin.address}")


def test_a_snapshot_is_served_and_the_next_follows(driving: Drive, fetch: Fetch, origins: Origins, bind: str) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            assert driven.family() == []
            await driven.apply(origins[0])
            await serves(fetch, bind, origins[0])
            await driven.apply(origins[1])
            await serves(fetch, bind, origins[1])
            await driven.apply()
            assert (await asyncio.to_thread(fetch, f"http://{bind}/")).status == 503
            assert (await driven.consumer.health()).ok
            assert driven.said(f"{bind} -> 0 backends")
        assert driven.family() == []
        assert not driven.said("state file")
        assert {path.name for path in driven.run_dir.iterdir()} == {"haproxy.cfg", "haproxy.cfg.last-good"}

    asyncio.run(scenario())


def test_of_many_services_the_log_tells_a_few(driving: Drive, origins: Origins, bind: str) -> None:
    def told(driven: Any) -> list[str]:
        return [entry["event"] for entry in driven.log.entries if bind in entry["event"] or "more of" in entry["event"]]

    async def scenario() -> None:
        async with driving(bind=bind) as driven:
            many = [backend(service=f"s{number}", port=origins[0].port) for number in range(100)]
            await driven.apply(*many)
            # Each is reached by two host names.
            assert told(driven)[20:] == ["and 180 more of these"]
            driven.log.entries.clear()
            await driven.apply(*many, backend(service="s7", port=origins[1].port))
            assert told(driven) == [f"s7  http {bind} s7{dots} -> 2 backends" for dots in ("", ".*")]

    asyncio.run(scenario())


def test_the_same_again_reloads_nothing(driving: Drive, origins: Origins, bind: str) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            before = await driven.processes()
            await driven.apply(origins[0])
            assert await driven.processes() == before

    asyncio.run(scenario())


def test_a_draining_backend_gets_no_new_connections_and_is_not_remembered_so(
    driving: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            first, second = origins[:2]
            for state in (State.DRAINING, State.ACTIVE):
                await driven.apply(backend(port=first.port, state=state), second)
                answers = {(await asyncio.to_thread(fetch, f"http://{bind}/")).body for _ in range(10)}
                assert (str(first.port) in answers) == (state is State.ACTIVE)

    asyncio.run(scenario())


def test_a_server_that_is_down_is_still_known_to_be_after_a_reload(
    driving: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind, "check": {"interval": "200ms"}}}) as driven:
            dead = backend(id="dead", port=free_port())
            await driven.apply(origins[0], dead)

            async def found_out() -> bool:
                states = await driven.control.server_states()
                return any(" dead 127.0.0.1 0 " in line for line in states.splitlines())

            await eventually(found_out, "the dead server to be found out")
            await driven.apply(*origins[:2], dead)
            assert await found_out()

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", ["master", "worker"])
def test_a_haproxy_that_dies_is_started_again(
    driving: Drive, fetch: Fetch, origins: Origins, bind: str, victim: str
) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            master = driven.master
            os.kill(master if victim == "master" else (await driven.processes()).workers[0], signal.SIGKILL)
            await eventually(lambda: driven.master != master, "another master")
            await serves(fetch, bind, origins[0])
            await eventually(_well(driven), "health")
            assert driven.said("ended unexpectedly")
            await driven.apply(origins[1])
            await serves(fetch, bind, origins[1])

    asyncio.run(scenario())


def _well(driven: Any) -> Callable[[], Any]:
    async def well() -> bool:
        return bool((await driven.consumer.health()).ok)

    return well


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:{busy}", r"bind 127.0.0.1:\d+ is in use by .*process \d+"), ("192.0.2.1:8080", "not an address of")],
)
def test_an_address_that_cannot_be_had_is_named_and_disturbs_nobody(
    driving: Drive, fetch: Fetch, origins: Origins, bind: str, address: str, reason: str
) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            before = await driven.processes()
            config = {"web": {"bind": [bind, address.format(busy=origins[3].port)]}}
            assert await driven.consumer.reconfigure(driven.configured(services=config))
            with pytest.raises(ApplyError, match=reason):
                await driven.again()
            assert await driven.processes() == before
            await serves(fetch, bind, origins[0])

    asyncio.run(scenario())


def test_a_new_configuration_is_taken_in_place(driving: Drive, fetch: Fetch, origins: Origins, bind: str) -> None:
    async def scenario() -> None:
        other = f"127.0.0.1:{free_port()}"
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            master = driven.master
            assert await driven.consumer.reconfigure(driven.configured(services={"web": {"bind": other}}))
            await driven.again()
            await serves(fetch, other, origins[0])
            assert driven.master == master

    asyncio.run(scenario())


def test_another_binary_replaces_the_running_one(
    driving: Drive, other_haproxy: Path, fetch: Fetch, origins: Origins, bind: str
) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            master = driven.master
            config = driven.configured(services={"web": {"bind": bind}}, binary=other_haproxy)
            assert await driven.consumer.reconfigure(config)
            await driven.apply(origins[1])
            await eventually(lambda: [process.pid for process in masters(driven.family())] != [master], "the new one")
            await eventually(lambda: driven.master != master, "the old one to be gone")
            assert {process.program for process in driven.family()} == {os.path.realpath(str(other_haproxy))}
            await serves(fetch, bind, origins[1])
            await eventually(_well(driven), "health")

    asyncio.run(scenario())


def test_one_that_cannot_be_told_to_reload_is_replaced(
    driving: Drive, fetch: Fetch, origins: Origins, bind: str, run_dir: Path
) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            before = driven.master
            (run_dir / "master.sock").unlink()
            assert not (await driven.consumer.health()).ok
            await driven.apply(origins[1])
            await eventually(lambda: driven.master != before, "the old one to be gone")
            await serves(fetch, bind, origins[1])
            assert (await driven.consumer.health()).ok

    asyncio.run(scenario())


def test_another_binary_is_put_in_place_even_if_nothing_else_changed(
    driving: Drive, other_haproxy: Path, origins: Origins, bind: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            assert await driven.consumer.reconfigure(driven.configured(binary=other_haproxy))
            await driven.again()
            programs = {os.path.realpath(str(other_haproxy))}
            await eventually(lambda: {process.program for process in driven.family()} == programs, "the other")

    asyncio.run(scenario())


def test_a_binary_that_is_missing_stops_nobody(
    driving: Drive, haproxy: Path, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            master = driven.master
            assert await driven.consumer.reconfigure(driven.configured(binary=tmp_path / "nothing"))
            with pytest.raises(ApplyError, match=r"haproxy.binary is .*/nothing, which is not a program"):
                await driven.apply(origins[1])
            await serves(fetch, bind, origins[0])
            assert await driven.consumer.reconfigure(driven.configured(binary=haproxy))
            await driven.apply(origins[1])
            await serves(fetch, bind, origins[1])
            assert driven.master == master

    asyncio.run(scenario())


def test_one_that_dies_while_it_loads_is_started_again_with_what_it_served(
    driving: Drive, fetch: Fetch, origins: Origins, bind: str, run_dir: Path
) -> None:
    async def scenario() -> None:
        config = run_dir / "haproxy.cfg"
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            master, served, before = driven.master, config.read_text(), config.stat().st_ino
            # So many take a while to load.
            other = {"bind": f"127.0.0.1:{free_port()}", "check": False}
            many = [backend(service="other", port=port) for port in range(2000, 5000)]
            driven.consumer.config = driven.configured(services={"web": {"bind": bind}, "other": other})
            applying = asyncio.create_task(driven.apply(origins[1], *many))
            while config.stat().st_ino == before:  # noqa: ASYNC110 - a file wakes nobody
                await asyncio.sleep(0.001)
            os.kill(master, signal.SIGKILL)
            with pytest.raises(ApplyError, match="HAProxy ended while it loaded"):
                await asyncio.wait_for(applying, within(30))
            assert config.read_text() == served
            await serves(fetch, bind, origins[0])
            await driven.apply(origins[1])
            await serves(fetch, bind, origins[1])

    asyncio.run(scenario())


def test_a_load_that_fails_leaves_the_old_configuration_serving(
    driving: Drive, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        template = tmp_path / "mine.cfg.j2"
        template.write_text("{% include 'builtin/haproxy.cfg.j2' %}\n")
        async with driving(services={"web": {"bind": bind}}, template=template) as driven:
            await driven.apply(origins[0])
            # A range of ports is nothing that we probe, so that HAProxy itself finds that it cannot have them.
            template.write_text(
                template.read_text() + "frontend more\n    bind 192.0.2.1:8000-8001\n    default_backend web\n"
            )
            with pytest.raises(ApplyError, match=r"cannot bind socket .* for \[192.0.2.1:8000\]"):
                await driven.apply(origins[1])
            await serves(fetch, bind, origins[0])
            assert "192.0.2.1" not in (driven.run_dir / "haproxy.cfg").read_text()
            template.write_text("{% include 'builtin/haproxy.cfg.j2' %}\n")
            await driven.apply(origins[1])
            await serves(fetch, bind, origins[1])
            assert (await driven.processes()).failed == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "{% include 'builtin/haproxy.cfg.j2' %}\nfrontend x\n    bnid :80\n",
            r"line \d+ \(bnid :80\): unknown keyword",
        ),
        ("{{ no_such_thing }}", r"mine.cfg.j2.*no_such_thing"),
        ("{% if %}", r"mine.cfg.j2.*line 1"),
    ],
)
def test_a_wrong_template_is_reported_and_the_old_configuration_serves(
    driving: Drive, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path, text: str, reason: str
) -> None:
    async def scenario() -> None:
        template = tmp_path / "mine.cfg.j2"
        template.write_text("{% include 'builtin/haproxy.cfg.j2' %}\n")
        async with driving(services={"web": {"bind": bind}}, template=template) as driven:
            await driven.apply(origins[0])
            template.write_text(text)
            await asyncio.wait_for(driven.asked.wait(), within(10))
            with pytest.raises(ApplyError, match=reason) as failure:
                await driven.apply(origins[1])
            assert "\n" not in str(failure.value)
            await serves(fetch, bind, origins[0])

    asyncio.run(scenario())


def test_a_first_configuration_that_is_refused_is_reported_and_kept_beside(
    driving: Drive, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        template = tmp_path / "mine.cfg.j2"
        wrong = "{% include 'builtin/haproxy.cfg.j2' %}\nfrontend x\n    bnid :80\n"
        template.write_text(wrong)
        async with driving(services={"web": {"bind": bind}}, template=template) as driven:
            for _ in range(2):
                with pytest.raises(ApplyError, match=r"refuses the new configuration: line \d+ \(bnid :80\)"):
                    await driven.apply(origins[0])
                assert "bnid :80" in (driven.run_dir / "haproxy.cfg.new").read_text()
                assert not (driven.run_dir / "haproxy.cfg").exists()
                assert driven.family() == []
            template.write_text("{% include 'builtin/haproxy.cfg.j2' %}\n")
            await driven.apply(origins[0])
            await serves(fetch, bind, origins[0])
            template.write_text(wrong)
            with pytest.raises(ApplyError, match="bnid"):
                await driven.apply(origins[0])
            assert "bnid" in (driven.run_dir / "haproxy.cfg.new").read_text()
            assert "bnid" not in (driven.run_dir / "haproxy.cfg").read_text()

    asyncio.run(scenario())


def test_a_configuration_is_checked_before_a_reload_and_by_the_first_start_itself(
    driving: Drive, haproxy: Path, origins: Origins, bind: str, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    wrapper = tmp_path / "haproxy"
    wrapper.write_text(f'#!/bin/sh\necho "$1" >> {calls}\nexec {haproxy} "$@"\n')
    wrapper.chmod(0o755)

    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}, binary=wrapper) as driven:
            await driven.apply(origins[0])
            assert calls.read_text().split() == ["-v", "-W"]
            await driven.apply(origins[1])
            assert calls.read_text().split() == ["-v", "-W", "-c"]

    asyncio.run(scenario())


def test_another_certificate_is_loaded(driving: Drive, origins: Origins, bind: str, tmp_path: Path) -> None:
    def issue() -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        parts = [certificate.private_key_pem, *certificate.cert_chain_pems]
        (tmp_path / "new.pem").write_bytes(b"".join(part.bytes() for part in parts))
        (tmp_path / "new.pem").replace(tmp_path / "site.pem")

    async def scenario() -> None:
        issue()
        services = {"web": {"bind": {"address": bind, "certificate": str(tmp_path / "site.pem")}}}
        async with driving(services=services) as driven:
            await driven.apply(origins[0])
            before = await driven.processes()
            issue()
            await asyncio.wait_for(driven.asked.wait(), within(10))
            await driven.again()
            after = await driven.processes()
            assert after.reloads == before.reloads + 1
            assert after.workers != before.workers

    asyncio.run(scenario())


def test_a_file_changed_in_place_within_the_same_second_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "site.pem"
    digests = FileDigests()
    file.write_text("one")
    before = digests.read([file])
    times = file.stat()
    file.write_text("two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests.changed([file])
    assert digests.read([file]) != before


def test_a_directory_that_cannot_be_used_is_named(driving: Drive, run_dir: Path) -> None:
    async def scenario() -> None:
        (run_dir / "log.pipe").mkdir()
        with pytest.raises(ApplyError, match=f"{run_dir}.* cannot be used"):
            async with driving():
                pass

    asyncio.run(scenario())


@pytest.fixture
def full(run_dir: Path) -> Iterator[Callable[[bool], None]]:
    """Puts the run directory on a disk of its own, and makes that full or empty again."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", run_dir], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    filler = run_dir / "filler"

    def fill(full: bool) -> None:
        if full:
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        else:
            filler.unlink()

    yield fill
    subprocess.run(["umount", run_dir], check=True)


def test_a_full_disk_is_named_and_the_old_configuration_serves(
    full: Callable[[bool], None], driving: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            full(True)
            with pytest.raises(ApplyError, match=r"haproxy.cfg cannot be written: No space left on device"):
                await driven.apply(origins[1])
            await serves(fetch, bind, origins[0])
            full(False)
            await driven.apply(origins[1])
            await serves(fetch, bind, origins[1])

    asyncio.run(scenario())


def test_something_in_the_way_of_the_file_is_named(driving: Drive, run_dir: Path, origins: Origins) -> None:
    async def scenario() -> None:
        (run_dir / "haproxy.cfg").mkdir()
        async with driving() as driven:
            with pytest.raises(ApplyError, match=r"haproxy.cfg cannot be written: Is a directory"):
                await driven.apply(origins[0])

    asyncio.run(scenario())


def test_a_missing_haproxy_is_reported_with_the_way_out(driving: Drive, tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(ApplyError, match=r"haproxy.binary is .*/nothing, which is not a program"):
            async with driving(binary=tmp_path / "nothing"):
                pass

    asyncio.run(scenario())


def test_a_haproxy_that_is_too_old_or_none_at_all_is_refused(driving: Drive, tmp_path: Path) -> None:
    async def scenario() -> None:
        program = tmp_path / "haproxy"
        for says, reason in (
            ("HAProxy version 2.2.9-2+deb11u6", "is HAProxy 2.2.9, older than 2.6"),
            ("hi", "is it HA"),
        ):
            program.write_text(f"#!/bin/sh\necho '{says}'\n")
            program.chmod(0o755)
            with pytest.raises(ApplyError, match=reason):
                async with driving(binary=program):
                    pass

    asyncio.run(scenario())


def test_a_preview_is_a_diff_and_writes_nothing(driving: Drive, run_dir: Path, origins: Origins, bind: str) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            assert await driven.preview(origins[0]) == ""
            before = {path.name: path.stat().st_mtime_ns for path in run_dir.iterdir()}
            changed = await driven.preview(origins[1])
            assert f"+    server {origins[1].id}" in changed
            assert f"-    server {origins[0].id}" in changed
            assert {path.name: path.stat().st_mtime_ns for path in run_dir.iterdir()} == before

    asyncio.run(scenario())


def test_what_haproxy_says_is_in_the_log(driving: Drive, bind: str) -> None:
    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind, "check": {"interval": "100ms"}}}) as driven:
            await driven.apply(backend(id="dead", port=free_port()))
            await eventually(lambda: driven.said("Server web/dead is DOWN"), "the log to tell")
            levels = {entry["log_level"] for entry in driven.log.entries if "Server web/dead is DOWN" in str(entry)}
            assert "warning" in levels

    asyncio.run(scenario())


def test_an_orphan_is_found_by_another_path_to_its_run_directory(
    driving: Drive, origins: Origins, bind: str, tmp_path: Path
) -> None:
    """Point 14. As /var/run is to /run: `discovery stop` ends it, and the next daemon replaces it."""

    async def scenario() -> None:
        async with driving(services={"web": {"bind": bind}}) as driven:
            await driven.apply(origins[0])
            master = driven.master
            await driven.consumer.hand_over()
            other = tmp_path / "other"
            other.symlink_to(driven.run_dir)
            context = dataclasses.replace(driven.consumer.context, run_dir=other)
            assert await HAProxyConsumer.end_orphans(context) == {master: "HAProxy"}
        assert driven.family() == []

    asyncio.run(scenario())
