"""Errors of a managed HAProxy: the message, and the previous configuration that goes on serving."""

import asyncio
import re
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from haproxy_driver import Drive, wait_until_served
from haproxy_web import Fetch

from discovery import ApplyError, Backend
from discovery.testing import backend, cannot_run, free_port, within

Origins = tuple[Backend, ...]


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:{busy}", r"bind 127.0.0.1:\d+ is in use by .*process \d+"), ("192.0.2.1:8080", "not an address of")],
)
async def test_an_address_that_cannot_be_bound_is_reported_and_the_others_follow_the_registry(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, address: str, reason: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        config = {"web": {"bind": [bind, address.format(busy=origins[3].port)]}}
        assert await driver.consumer.reconfigure(driver.configured(services=config))
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        assert (await driver.processes()).failed == 0
        assert re.search(reason, (await driver.consumer.health()).detail)


async def test_a_template_that_the_reload_refuses_is_replaced_by_the_accepted_template(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path
) -> None:
    template = tmp_path / "mine.cfg.j2"
    template.write_text("{% include 'builtin/haproxy.cfg.j2' %}\n")
    async with drive(services={"web": {"bind": bind}}, template=template, global_lines="setenv PORT 8000") as driver:
        await driver.apply(origins[0])
        # An address with a variable is not probed, so that HAProxy itself finds that it cannot listen there.
        template.write_text(
            template.read_text() + 'frontend more\n    bind "192.0.2.1:${PORT}"\n    default_backend web\n'
        )
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        assert re.search(r"cannot bind socket .* for \[192.0.2.1:8000\]", (await driver.consumer.health()).detail)
        assert "192.0.2.1" not in (driver.run_dir / "haproxy.cfg").read_text()
        template.write_text("{% include 'builtin/haproxy.cfg.j2' %}\n    option tcpka\n")
        await driver.apply(origins[2])
        await wait_until_served(fetch, bind, origins[2])
        assert (await driver.processes()).failed == 0


async def test_an_address_that_becomes_free_is_asked_for_at_the_next_health_check(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        more = f"127.0.0.1:{busy.getsockname()[1]}"
        async with drive(services={"web": {"bind": bind}}) as driver:
            await driver.apply(origins[0])
            assert await driver.consumer.reconfigure(driver.configured(services={"web": {"bind": [bind, more]}}))
            await driver.apply_again()
            assert "in use" in (await driver.consumer.health()).detail
            assert not await driver.is_apply_requested()
            busy.close()
            await driver.consumer.health()
            assert await driver.is_apply_requested()
            await driver.apply_again()
            await wait_until_served(fetch, more, origins[0])
            driver.apply_requested.clear()
            await driver.consumer.health()
            assert not await driver.is_apply_requested()


@pytest.mark.costly
async def test_a_refused_reload_is_not_repeated_until_something_that_matters_changes(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        services = {
            "web": {"bind": bind},
            "more": {"bind": f"127.0.0.1:{free_port()}", "frontend_lines": 'bind "127.0.0.1:${P}"'},
        }
        named = tmp_path / "named"
        named.write_text("1")
        async with drive(services={"web": {"bind": bind}}, files=[named], global_lines=[f"setenv P {port}"]) as driver:
            await driver.apply(origins[0])
            assert await driver.consumer.reconfigure(driver.configured(services=services))

            async def reloads(*backends: Backend, **options: Any) -> int:
                """Apply, and return the number of reloads, refused ones included."""
                before = (await driver.processes()).reloads
                await driver.apply(*backends, **options)
                assert "cannot bind" in (await driver.consumer.health()).detail
                return (await driver.processes()).reloads - before

            assert await reloads(*origins[:2]) == 2
            assert await reloads(*origins[:2]) == 0
            # A change of a backend makes a refused address no better.
            assert await reloads(origins[2]) == 0  # by run-time commands
            assert await reloads(origins[2], of_more(origins[2])) == 0
            assert await reloads(origins[2], operator_request=True) == 1
            assert await reloads(origins[2]) == 0
            named.write_text("2")
            assert await reloads(origins[2]) == 2
            assert await driver.consumer.reconfigure(driver.configured(services=services, retries=1))
            assert await reloads(origins[2]) == 2
            assert await reloads(origins[2]) == 0
            await wait_until_served(fetch, bind, origins[2])
            busy.close()
            await driver.apply(origins[3], operator_request=True)
            await wait_until_served(fetch, bind, origins[3])
            assert (await driver.consumer.health()).ok


@pytest.mark.costly
async def test_no_form_of_a_configuration_is_tried_again_if_haproxy_can_load_none(
    drive: Drive, origins: Origins, bind: str
) -> None:
    services = {"web": {"bind": bind, "check": False}}
    more = {"bind": f"127.0.0.1:{free_port()}", "check": False, "service": "gone"}
    async with drive(services=services, maxconn=3000) as driver:
        await driver.apply(origins[0])
        # A new worker has too few descriptors, whatever the configuration says of services.
        resource.prlimit(driver.master, resource.RLIMIT_NOFILE, (300, 300))
        assert await driver.consumer.reconfigure(driver.configured(services={**services, "more": more}))

        async def reloads(**options: bool) -> int:
            before = (await driver.processes()).reloads
            with pytest.raises(ApplyError, match="Cannot raise FD limit"):
                await driver.apply(origins[0], **options)
            return (await driver.processes()).reloads - before

        assert await reloads() == 2
        warnings = [entry["event"] for entry in driver.log.entries if entry["log_level"] == "warning"]
        assert "service 'more' has no backends: no service 'gone' is registered" in warnings
        assert [await reloads() for _ in range(3)] == [0, 0, 0]
        assert [entry["event"] for entry in driver.log.entries if entry["log_level"] == "warning"] == warnings
        assert await reloads(operator_request=True) == 2


def of_more(origin: Backend) -> Backend:
    return backend(service="more", port=origin.port)


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
async def test_an_invalid_template_is_reported_and_the_accepted_template_serves(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path, text: str, reason: str
) -> None:
    template = tmp_path / "mine.cfg.j2"
    template.write_text("{% include 'builtin/haproxy.cfg.j2' %}\n")
    async with drive(services={"web": {"bind": bind}}, template=template) as driver:
        await driver.apply(origins[0])
        template.write_text(text)
        await asyncio.wait_for(driver.apply_requested.wait(), within(10))
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        detail = (await driver.consumer.health()).detail
        assert re.search(reason, detail)
        assert "\n" not in detail


async def test_a_refused_first_configuration_is_reported_and_kept_as_new(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path
) -> None:
    template = tmp_path / "mine.cfg.j2"
    wrong = "{% include 'builtin/haproxy.cfg.j2' %}\nfrontend x\n    bnid :80\n"
    template.write_text(wrong)
    async with drive(services={"web": {"bind": bind}}, template=template) as driver:
        for _ in range(2):
            with pytest.raises(ApplyError, match=r"refuses the new configuration: line \d+ \(bnid :80\)"):
                await driver.apply(origins[0])
            assert "bnid :80" in (driver.run_dir / "haproxy.cfg.new").read_text()
            assert not (driver.run_dir / "haproxy.cfg").exists()
            assert driver.all_processes() == []
        template.write_text("{% include 'builtin/haproxy.cfg.j2' %}\n")
        await driver.apply(origins[0])
        await wait_until_served(fetch, bind, origins[0])
        template.write_text(wrong)
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        assert "bnid" in (await driver.consumer.health()).detail
        assert "bnid" not in (driver.run_dir / "haproxy.cfg").read_text()


async def test_an_unusable_run_directory_is_reported(drive: Drive, run_dir: Path) -> None:
    (run_dir / "log.pipe").mkdir()
    with pytest.raises(ApplyError, match=f"{run_dir}.* cannot be used"):
        async with drive():
            pass


@pytest.fixture
def full(run_dir: Path) -> Iterator[Callable[[bool], None]]:
    """Puts the run directory on a disk of its own, and makes that full or empty again."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", run_dir], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        cannot_run(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
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


async def test_a_full_disk_is_reported_and_the_old_configuration_serves(
    full: Callable[[bool], None], drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    async with drive(services={"web": {"bind": bind}}) as driver:
        await driver.apply(origins[0])
        full(True)
        with pytest.raises(ApplyError, match=r"haproxy.cfg cannot be written: No space left on device"):
            await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[0])
        full(False)
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])


async def test_a_directory_in_the_place_of_the_configuration_file_is_reported(
    drive: Drive, run_dir: Path, origins: Origins
) -> None:
    (run_dir / "haproxy.cfg").mkdir()
    async with drive() as driver:
        with pytest.raises(ApplyError, match=r"haproxy.cfg cannot be written: Is a directory"):
            await driver.apply(origins[0])


async def test_a_missing_haproxy_is_reported_with_the_remedy(drive: Drive, tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match=r"haproxy.binary is .*/nothing, which is not a program"):
        async with drive(binary=tmp_path / "nothing"):
            pass


async def test_an_old_haproxy_and_another_program_are_refused(drive: Drive, tmp_path: Path) -> None:
    program = tmp_path / "haproxy"
    for says, reason in (
        ("HAProxy version 2.2.9-2+deb11u6", "is HAProxy 2.2.9, older than 2.6"),
        ("hi", "does not print a version of HAProxy"),
    ):
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)
        with pytest.raises(ApplyError, match=reason):
            async with drive(binary=program):
                pass


@pytest.mark.exhaustive  # two refused reloads, of 2 s each
async def test_a_refused_reload_is_not_repeated_by_the_next_daemon(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        lines = 'bind "127.0.0.1:${P}"'
        services = {"web": {"bind": bind, "check": False, "frontend_lines": lines}}
        options = {"global_lines": f"setenv P {busy.getsockname()[1]}"}
        async with drive(services={"web": {"bind": bind, "check": False}}, **options) as driver:
            await driver.apply(origins[0])
            assert await driver.consumer.reconfigure(driver.configured(services=services))
            await driver.apply(origins[0])
            before = (await driver.processes()).reloads
            assert "cannot bind" in (await driver.consumer.health()).detail
            await driver.consumer.hand_over()
        async with drive(services=services, **options) as driver:
            await driver.apply(origins[0])
            assert (await driver.processes()).reloads == before
            assert "cannot bind" in (await driver.consumer.health()).detail
            await wait_until_served(fetch, bind, origins[0])
            await driver.apply(origins[0], operator_request=True)
            assert (await driver.processes()).reloads > before


@pytest.mark.exhaustive  # a refused reload of 2 s
async def test_a_new_haproxy_is_given_what_the_haproxy_before_has_refused(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    """A start disturbs nobody, and whether the address is free cannot be judged."""
    lines = 'bind "127.0.0.1:${P}"'
    services = {"web": {"bind": bind, "check": False, "frontend_lines": lines}}
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        options = {"global_lines": f"setenv P {port}"}
        async with drive(services={"web": {"bind": bind, "check": False}}, **options) as driver:
            await driver.apply(origins[0])
            assert await driver.consumer.reconfigure(driver.configured(services=services))
            await driver.apply(origins[0])
            assert "cannot bind" in (await driver.consumer.health()).detail
    async with drive(services=services, **options) as driver:
        await driver.apply(origins[0])
        await wait_until_served(fetch, f"127.0.0.1:{port}", origins[0])
        assert (await driver.consumer.health()).ok
