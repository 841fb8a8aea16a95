"""Every form of a bind, with real HAProxy: the probe finds addresses in use, and knows those of HAProxy itself."""

import socket
from pathlib import Path

import pytest
from haproxy_driver import Drive, wait_until_served
from haproxy_web import Fetch
from sampling import sampled

from discovery import Backend
from discovery.testing import free_port

Origins = tuple[Backend, ...]

FORMS = [
    "127.0.0.1:{port}-{port}",
    "ipv4@127.0.0.1:{port}",
    "127.0.0.2:{free},127.0.0.1:{port}",
    "127.0.0.1:{port} interface lo",
    "127.0.0.1:{port} transparent",
    "abns@{name}",
    "unix@{path}",
]


@pytest.mark.costly
@pytest.mark.parametrize("form", sampled(FORMS, 3))
async def test_each_form_of_a_bind_is_probed_and_recognised_as_own(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, run_dir: Path, form: str
) -> None:
    """Neither is HAProxy asked to load what cannot be bound, nor is HAProxy's own socket taken for that of another."""
    path, name = run_dir / "more", f"discovery-{bind}"
    with (
        socket.create_server(("127.0.0.1", 0)) as busy,
        socket.socket(socket.AF_UNIX) as with_path,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        with_path.bind(str(path))
        with_path.listen()
        abstract.bind(b"\0" + name.encode().ljust(107, b"\0"))
        line = form.format(port=busy.getsockname()[1], free=free_port(), path=path, name=name)
        services = {"web": {"bind": bind, "frontend_lines": f"bind {line}"}}
        async with drive(services={"web": {"bind": bind}}) as driver:
            await driver.apply(origins[0])
            assert await driver.consumer.reconfigure(driver.configured(services=services))
            await driver.apply(origins[1])
            assert "is in use by" in (await driver.consumer.health()).detail
            assert (await driver.processes()).failed == 0
            await wait_until_served(fetch, bind, origins[1])  # with the options that were accepted before
            await driver.consumer.hand_over()
    async with drive(services=services) as driver:
        await driver.apply(origins[1])
        await driver.consumer.hand_over()
    async with drive(services=services) as driver:
        await driver.apply(origins[2])
        await wait_until_served(fetch, bind, origins[2])


async def test_addresses_of_other_sections_are_probed_and_recognised_as_own(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path
) -> None:
    template = tmp_path / "mine.cfg.j2"
    udp, tcp, stats = free_port(), free_port(), free_port()
    template.write_text(
        "{% include 'builtin/haproxy.cfg.j2' %}\n"
        f"ring r\n    size 32768\nlog-forward f\n    dgram-bind 127.0.0.1:{udp}\n    log ring@r local0\n"
        f"peers x\n    bind 127.0.0.1:{tcp}\n    server {socket.gethostname()}\n"
    )
    options = {
        "services": {"web": {"bind": bind}},
        "template": template,
        "global_lines": f"stats socket ipv4@127.0.0.1:{stats}",
    }
    async with drive(**options) as driver:
        await driver.apply(origins[0])
        await driver.consumer.hand_over()
    async with drive(**options, retries=2) as driver:
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        processes = await driver.processes()
        assert (processes.reloads, processes.failed) == (1, 0)
