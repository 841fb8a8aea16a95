"""The check behind a change: a file from which HAProxy could not start is reported, and what HAProxy serves goes on."""

import asyncio
from pathlib import Path

import trustme
from haproxy_driver import ConsumerDriver, Drive, live_servers, ways

from discovery import Backend
from discovery.testing import eventually
from discovery_haproxy.limits import Limits

Origins = tuple[Backend, ...]


QUICK = Limits(check_delay=0.05, check_repeat=0.1, check_pause_share=0.5)


async def would_start(driver: ConsumerDriver, haproxy: Path) -> bool:
    """Report whether HAProxy accepts the file on the disk."""
    check = await asyncio.create_subprocess_exec(haproxy, "-c", "-f", driver.run_dir / "haproxy.cfg")
    return await check.wait() == 0


async def test_a_file_that_haproxy_could_not_start_from_is_reported_and_kept_out_of_a_reload(
    drive: Drive, origins: Origins, bind: str, haproxy: Path, tmp_path: Path
) -> None:
    # HAProxy has read the authority at its start, so that the socket accepts more servers that name it.
    authority, away = tmp_path / "ca.pem", tmp_path / "away.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    secure = {"bind": bind, "server_options": f"ssl verify required ca-file {authority}", "check": False}
    other = {"bind": f"unix:{tmp_path}/other.sock", "check": False}
    async with drive(limits=QUICK, services={"web": secure, "other": other}) as driver:
        others = [Backend("other", each.id, each.host, each.port) for each in origins]
        await driver.apply(origins[0], others[0])
        authority.rename(away)
        await driver.apply(*origins[:2], others[0])
        assert ways(driver) == {"runtime": 1, "reload": 0}

        async def health() -> str:
            return (await driver.consumer.health()).detail

        async def is_reported() -> bool:
            return "could not start again from its file" in await health()

        await eventually(is_reported, "the refusal in the health")
        assert str(authority) in await health()
        assert driver.has_logged("could not start again from its file")
        assert str(authority) in (await driver.consumer.inspect())["refused_file"]
        assert not await would_start(driver, haproxy)

        away.rename(authority)

        async def is_mended() -> bool:
            return (await driver.consumer.health()).ok

        await eventually(is_mended, "the health to be good again")
        assert (await driver.consumer.inspect())["refused_file"] is None
        authority.rename(away)
        await driver.apply(*origins[:3], others[0])
        await eventually(is_reported, "the refusal in the health")
        # What HAProxy serves goes on, and follows the registry.
        await driver.apply(*origins[:3], *others[:2])
        assert set(await live_servers(driver)) == {
            *(("web", each.id) for each in origins[:3]),
            *(("other", each.id) for each in others[:2]),
        }
        assert ways(driver)["reload"] == 0
        assert (await driver.consumer.inspect())["refused"] == []
        # A reload would not: the refused service is kept apart.
        changed = {"web": secure, "other": other | {"balance": "leastconn"}}
        assert await driver.consumer.reconfigure(driver.configured(services=changed))
        await driver.apply(*origins[:3], *others[:2])
        assert await would_start(driver, haproxy)
        reports = (await driver.consumer.inspect())["refused"]
        assert [each["part"] for each in reports] == ["service 'web'"]
