"""The map of routes is installed, checked and put back together with the configuration file."""

import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from haproxy_driver import Drive
from haproxy_web import Fetch
from sampling import sampled

from discovery import ApplyError, Backend, Snapshot
from discovery.testing import backend, free_port, within
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.program.binary import locate
from discovery_haproxy.rendering.render import Rendered, Runtime, render

Origins = tuple[Backend, ...]
MAP = "haproxy.routes.map"


@pytest.fixture
def bind() -> str:
    """Return the address that services share."""
    return f"127.0.0.1:{free_port()}"


def sharing(bind: str, host: str = "other.example") -> dict[str, Any]:
    """Return two services on a shared address: `web` has every host, `other` has one."""
    return {"web": {"bind": bind}, "other": {"bind": bind, "hosts": host}}


def entries(directory: Path) -> list[str]:
    """Return the entries of the installed map."""
    return (directory / MAP).read_text().splitlines()[1:]


def is_served(fetch: Fetch, bind: str, host: str, origin: Backend) -> bool:
    return fetch(f"http://{bind}/", Host=host).body == str(origin.port)


def other(origin: Backend) -> Backend:
    return backend("other", port=origin.port)


async def test_the_map_is_installed_with_the_configuration_and_follows_it(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, run_dir: Path
) -> None:
    async with drive(services=sharing(bind)) as driver:
        await driver.apply(origins[0], other(origins[1]))
        assert entries(run_dir) == [f"frontend:{bind}/other.example/ other"]
        assert stat.S_IMODE((run_dir / MAP).stat().st_mode) == 0o600
        assert is_served(fetch, bind, "other.example", origins[1])
        assert is_served(fetch, bind, "another.example", origins[0])
        assert await driver.consumer.reconfigure(driver.configured(services=sharing(bind, "another.example")))
        assert f"+frontend:{bind}/another.example/ other\n" in await driver.preview(origins[0])
        await driver.apply_again()
        assert entries(run_dir) == [f"frontend:{bind}/another.example/ other"]
        assert is_served(fetch, bind, "other.example", origins[0])
        assert is_served(fetch, bind, "another.example", origins[1])


async def test_a_map_that_was_changed_or_removed_is_written_again(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, run_dir: Path
) -> None:
    async with drive(services=sharing(bind)) as driver:
        await driver.apply(origins[0], other(origins[1]))
        expected = (run_dir / MAP).read_text()
        (run_dir / MAP).unlink()
        await driver.apply_again()
        assert (run_dir / MAP).read_text() == expected
        (run_dir / MAP).write_text(f"frontend:{bind}/other.example/ web\n")
        await driver.apply_again()
        assert (run_dir / MAP).read_text() == expected
        assert is_served(fetch, bind, "other.example", origins[1])


async def test_the_routes_of_a_refused_service_follow_the_configuration(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, run_dir: Path
) -> None:
    services: dict[str, Any] = {**sharing(bind), "third": {"bind": bind, "hosts": "third.example"}}
    async with drive(services=services) as driver:
        await driver.apply(origins[0], other(origins[1]))
        services = {**sharing(bind, "another.example"), "third": {"bind": bind, "hosts": "new.example"}}
        services["third"]["backend_lines"] = "no-such-keyword"
        assert await driver.consumer.reconfigure(driver.configured(services=services))
        await driver.apply_again()
        assert entries(run_dir) == [
            f"frontend:{bind}/another.example/ other",
            f"frontend:{bind}/new.example/ third",
        ]
        assert is_served(fetch, bind, "another.example", origins[1])
        assert is_served(fetch, bind, "other.example", origins[0])
        assert fetch(f"http://{bind}/", Host="new.example").status == 503


async def test_the_map_of_the_served_configuration_is_put_back_after_a_crash(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, run_dir: Path
) -> None:
    """The daemon died after it had replaced the map, before or after it had replaced the configuration."""
    config, routes = run_dir / "haproxy.cfg", run_dir / MAP
    async with drive(services=sharing(bind)) as driver:
        await driver.apply(origins[0], other(origins[1]))
        for replaced in ([routes], [routes, config]):
            served = {path: path.read_text() for path in (config, routes)}
            await driver.consumer.hand_over()
            for path in replaced:
                last_good = path.with_name(f"{path.name}.last-good")
                last_good.unlink(missing_ok=True)
                path.rename(last_good)
                path.write_text(served[path].replace("other.example", "x.example").replace("cfg-", "cfg-0"))
            driver.consumer = type(driver.consumer)(driver.consumer.config, driver.consumer.context)
            await driver.consumer.setup()
            assert {path: path.read_text() for path in served} == served
            master = driver.master
            await driver.apply_again()
            assert driver.master == master
            assert is_served(fetch, bind, "other.example", origins[1])


CRASHES = """
import asyncio, os, signal, sys
from pathlib import Path
from discovery_haproxy.deployment.install import install, stage_all

def crash_at(number):
    left = number
    def hook(event, arguments):
        nonlocal left
        if event in ("os.rename", "os.link", "os.remove") or event == "open" and arguments[2] & os.O_ACCMODE:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    return hook

async def deploy(directory, text, contents, activate):
    path, maps = directory / "haproxy.cfg", {directory / "haproxy.routes.map": contents} if contents else {}
    changed = stage_all(path, (text.encode(),), maps, 0o600, durable=bool(durable))
    await install(path, changed, activate, durable=bool(durable))

async def accept():
    pass

async def refuse():
    raise RuntimeError

directory, new, old, contents, old_contents, durable = Path(sys.argv[1]), *sys.argv[2:]
for number in range(100):
    place = directory / str(number)
    place.mkdir()
    if old:
        asyncio.run(deploy(place, old.replace("DIRECTORY", str(place)), old_contents, accept))
    child = os.fork()
    if not child:
        sys.addaudithook(crash_at(number))
        try:
            asyncio.run(deploy(place, new.replace("DIRECTORY", str(place)), contents, refuse))
        finally:
            os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""
"""Deploys a configuration, which is then refused, in a process that is killed at its first, second, ... change of
the file system. The refusal comes after every step of a deployment that is accepted."""


def configuration(port: int, *hosts: str) -> Rendered:
    """Return a configuration with a route for each host."""
    services = {f"s{number}": {"bind": f"127.0.0.1:{port}", "hosts": host} for number, host in enumerate(hosts)}
    services["rest"] = {"bind": f"127.0.0.1:{port}"}
    config = HAProxyConfig.model_validate({"services": services})
    return render(config, Snapshot.of(1, []), Runtime(route_map=Path("DIRECTORY") / MAP), {})


@pytest.mark.costly
@pytest.mark.parametrize(
    ("old", "new", "durable"),
    sampled(
        [
            pytest.param((), ("a", "b"), False, id="more"),
            pytest.param(("a",), ("b", "a"), True, id="durable"),
            pytest.param(("a", "b"), (), False, id="none"),
            pytest.param(None, ("a",), False, id="first"),
        ]
    ),
)
def test_haproxy_can_start_after_a_crash_at_any_moment(
    haproxy: Path, tmp_path: Path, old: tuple[str, ...] | None, new: tuple[str, ...], durable: bool
) -> None:
    """Without a configuration file (`old` is None) HAProxy could not start before the crash."""
    before, after = old if old is None else configuration(1, *old), configuration(1, *new)
    texts = [after.text, before.text if before else ""]
    maps = ["".join(each.maps.values()) if each else "" for each in (after, before)]
    subprocess.run(
        [sys.executable, "-c", CRASHES, tmp_path, *texts, *maps, "1" if durable else ""], check=True, timeout=within(60)
    )
    crashed = sorted(tmp_path.iterdir(), key=lambda place: int(place.name))
    uninterrupted = [crashed[-1] / "haproxy.cfg", crashed[-1] / MAP]
    assert [each.read_text() if each.exists() else "" for each in uninterrupted] == [
        texts[1].replace("DIRECTORY", str(crashed[-1])),
        maps[1],
    ]
    assert len(crashed) > 4
    states = {}
    for place in crashed:
        files = [place / "haproxy.cfg", place / MAP]
        assert files[0].exists() or before is None
        states[tuple(file.read_text().replace(str(place), "") if file.exists() else "" for file in files)] = place
    assert len(states) > (before is None)
    for place in states.values():
        if (place / "haproxy.cfg").exists():
            subprocess.run([haproxy, "-c", "-f", place / "haproxy.cfg"], check=True, timeout=within(60))


async def test_an_external_map_is_beside_the_file_with_its_mode_and_no_other_map_is_replaced(
    drive: Drive, origins: Origins, bind: str, tmp_path: Path
) -> None:
    config, routes = tmp_path / "etc" / "haproxy.cfg", tmp_path / "etc" / MAP
    config.parent.mkdir()
    config.touch(0o640)
    routes.write_text("a b\n")
    external = {"path": config, "command": ["true"]}
    async with drive(services=sharing(bind), external=external) as driver:
        with pytest.raises(ApplyError, match=f"{routes} was not written by discovery"):
            await driver.apply(origins[0])
    assert (config.read_text(), routes.read_text()) == ("", "a b\n")
    async with drive(services=sharing(bind), external={**external, "adopt": True}) as driver:
        await driver.apply(origins[0])
        assert entries(config.parent) == [f"frontend:{bind}/other.example/ other"]
        assert stat.S_IMODE(routes.stat().st_mode) == 0o640
        assert (config.parent / f"{MAP}.before-discovery").read_text() == "a b\n"
        assert await driver.consumer.reconfigure(driver.configured(services=sharing(bind, "another.example")))
        await driver.apply(origins[0])
        assert entries(config.parent) == [f"frontend:{bind}/another.example/ other"]
    assert (config.parent / f"{MAP}.before-discovery").read_text() == "a b\n"


async def test_a_program_that_checks_needs_no_map(
    drive: Drive, haproxy: Path, origins: Origins, bind: str, tmp_path: Path
) -> None:
    """The program may run in a container, which the new map has not reached."""
    external = {
        "path": tmp_path / "haproxy.cfg",
        "command": ["true"],
        "validate": [str(haproxy), "-c", "-f", "/dev/stdin"],
    }
    async with drive(services=sharing(bind), external=external) as driver:
        await driver.apply(origins[0])
        assert entries(tmp_path) == [f"frontend:{bind}/other.example/ other"]


async def test_the_check_needs_no_map_on_the_disk_and_takes_any_path(haproxy: Path, tmp_path: Path, parse: Any) -> None:
    strange = tmp_path / "a b,c(d)'e\"f\\g]h%i$j{k}l#m" / MAP
    config = HAProxyConfig.model_validate({"services": sharing("127.0.0.1:1")})
    rendered = render(config, Snapshot.of(1, []), Runtime(route_map=strange), {})
    await (await locate(haproxy)).check(rendered)
    strange.parent.mkdir()
    strange.write_text(rendered.maps[strange])
    assert parse(rendered.text) == ""
    strange.unlink()
    with pytest.raises(AssertionError, match="failed to open pattern file"):
        parse(rendered.text)
