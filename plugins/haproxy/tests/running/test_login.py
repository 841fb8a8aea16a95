"""Files of users: followed while HAProxy runs, and secret."""

import asyncio
from base64 import b64encode
from pathlib import Path
from urllib.error import URLError

from haproxy_driver import Drive
from haproxy_web import Fetch

from discovery import Backend
from discovery.testing import eventually, free_port, within

LOGIN = {"Authorization": f"Basic {b64encode(b'alice:secret').decode()}"}


async def wait_for_statuses(fetch: Fetch, *expected: tuple[str, dict[str, str], int]) -> None:
    """Wait until each address answers a request with these headers with the status; 0 stands for a closed address."""

    async def are_answered() -> bool:
        return [await status(fetch, *request) for *request, _ in expected] == [wanted for *_, wanted in expected]

    await eventually(are_answered, f"{expected}")


async def status(fetch: Fetch, address: str, headers: dict[str, str]) -> int:
    try:
        return (await asyncio.to_thread(fetch, f"http://{address}/", **headers)).status
    except URLError:
        return 0


async def test_a_changed_file_of_users_is_followed_and_no_password_is_told(
    drive: Drive, fetch: Fetch, origins: tuple[Backend, ...], tmp_path: Path
) -> None:
    bind, users = f"127.0.0.1:{free_port()}", tmp_path / "web.users"
    users.touch(0o600)

    async def status(password: str) -> int:
        login = f"Basic {b64encode(f'alice:{password}'.encode()).decode()}"
        return (await asyncio.to_thread(fetch, f"http://{bind}/", Authorization=login)).status

    users.write_text("alice:first-secret\n")
    services = {"web": {"bind": bind, "check": False, "basic_auth": str(users)}}
    async with drive(services=services, access_log=True) as driver:
        await driver.apply(*origins)
        assert [await status("first-secret"), await status("second-secret")] == [200, 401]
        users.write_text("alice:second-secret\n")
        await asyncio.wait_for(driver.apply_requested.wait(), within(20))
        diff = await driver.preview(*origins)
        await driver.apply_again()
        assert [await status("first-secret"), await status("second-secret")] == [401, 200]
        places = driver.run_dir, driver.state_dir
        files = [path for place in places for path in place.rglob("*") if path.is_file()]
        texts = [diff, *(path.read_text(errors="replace") for path in files), *map(repr, driver.log.entries)]
        texts += [" ".join(process.argv) for process in driver.all_processes()]
        assert driver.run_dir / "haproxy.cfg" in files
        assert not [text for text in texts if "-secret" in text]


async def test_a_service_whose_login_is_not_to_be_had_is_closed_and_not_open(
    drive: Drive, fetch: Fetch, origins: tuple[Backend, ...], bind: str, tmp_path: Path
) -> None:
    api, users = f"127.0.0.1:{free_port()}", tmp_path / "web.users"
    open_ = {"web": {"bind": bind, "check": False}, "api": {"bind": api, "check": False, "service": "web"}}
    closed = {**open_, "web": {**open_["web"], "basic_auth": str(users)}}
    async with drive(services=open_) as driver:
        await driver.apply(*origins)
        await wait_for_statuses(fetch, (bind, {}, 200))
        assert await driver.consumer.reconfigure(driver.configured(services=closed))
        await driver.apply_again()
        await wait_for_statuses(fetch, (bind, {}, 503), (api, {}, 200))
        assert f"users_file {users} of service 'web' cannot be read" in (await driver.consumer.health()).detail
        users.write_text("alice:secret\n")
        await driver.apply_again()
        await wait_for_statuses(fetch, (bind, {}, 401), (bind, LOGIN, 200), (api, {}, 200))
        users.write_text("# nobody\n")
        await driver.apply_again()
        await wait_for_statuses(fetch, (bind, {}, 503), (bind, LOGIN, 503), (api, {}, 200))
        health = await driver.consumer.health()
        assert f"users_file {users} of service 'web' has no user" in health.detail
        assert "service 'web' refused, left out" in health.detail


async def test_a_rejected_line_beside_a_new_login_does_not_leave_the_service_open(
    drive: Drive, fetch: Fetch, origins: tuple[Backend, ...], bind: str, tmp_path: Path
) -> None:
    users = tmp_path / "web.users"
    users.write_text("alice:secret\n")
    changed = {"bind": bind, "check": False, "basic_auth": str(users), "backend_lines": ["nonsense here"]}
    async with drive(services={"web": {"bind": bind, "check": False, "balance": "first"}}) as driver:
        await driver.apply(*origins)
        assert await driver.consumer.reconfigure(driver.configured(services={"web": changed}))
        await driver.apply_again()
        assert "balance first" in (driver.run_dir / "haproxy.cfg").read_text()
        await wait_for_statuses(fetch, (bind, {}, 401), (bind, LOGIN, 200))


async def test_statistics_whose_new_login_is_not_to_be_had_are_closed(
    drive: Drive, fetch: Fetch, origins: tuple[Backend, ...], bind: str, tmp_path: Path
) -> None:
    stats = f"127.0.0.1:{free_port()}"
    services = {"web": {"bind": bind, "check": False}}
    async with drive(services=services, stats=stats) as driver:
        await driver.apply(*origins)
        await wait_for_statuses(fetch, (stats, {}, 200))
        users = {"address": stats, "users_file": str(tmp_path / "missing")}
        for lines in ((), ["nonsense"]):
            changed = driver.configured(services=services, stats=users, global_lines=lines)
            assert await driver.consumer.reconfigure(changed)
            await driver.apply_again()
            await wait_for_statuses(fetch, (stats, {}, 0), (bind, {}, 200))
            assert "'stats' refused, closed" in (await driver.consumer.health()).detail
