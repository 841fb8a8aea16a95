"""Files of users: followed while HAProxy runs, and secret."""

import asyncio
from base64 import b64encode
from pathlib import Path

from haproxy_driver import Drive
from haproxy_web import Fetch

from discovery import Backend
from discovery.testing import free_port, within


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
