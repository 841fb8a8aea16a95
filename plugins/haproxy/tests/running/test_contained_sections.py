"""A refused section of the user's own: it serves in its accepted form, or is left out, and nothing else is affected."""

from typing import Any

import pytest
from haproxy_driver import ConsumerDriver, Drive, wait_until_served
from haproxy_web import Fetch

from discovery import Backend
from discovery.testing import free_port

Origins = tuple[Backend, ...]
GOOD = "stick-table type ip size 1k expire 1m store http_req_cnt"
TRACK = "http-request track-sc0 src table table"


def services(bind: str, **options: Any) -> dict[str, Any]:
    return {"web": {"bind": bind, "check": False, **options}}


async def refused(driver: ConsumerDriver) -> dict[str, str]:
    """Return what has become of each refused part."""
    return {each["part"]: each["state"] for each in (await driver.consumer.inspect())["refused"]}


def text(driver: ConsumerDriver) -> str:
    return (driver.run_dir / "haproxy.cfg").read_text()


async def test_a_refused_section_serves_in_its_accepted_form_and_all_else_is_current(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    tracking = services(bind, frontend_lines=TRACK)
    async with drive(services=tracking, sections={"backend table": GOOD}) as driver:
        await driver.apply(origins[0])
        changed = {"backend table": "nonsense here", "ring more": ["format raw", "size 32764"]}
        assert await driver.consumer.reconfigure(driver.configured(services=tracking, sections=changed, retries=7))
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        assert await refused(driver) == {"section 'backend table'": "kept in its last accepted form"}
        assert GOOD in text(driver)
        assert "ring more\n" in text(driver)
        assert "retries 7\n" in text(driver)
        assert "nonsense" in (await driver.consumer.health()).detail
        counts = {s.labels["kind"]: s.value for s in driver.consumer.metrics() if s.name == "refused_parts"}
        assert counts["section"] == 1
    async with drive(services=tracking, sections=changed) as driver:  # the next daemon
        await driver.apply(origins[2])
        await wait_until_served(fetch, bind, origins[2])
        assert GOOD in text(driver)


async def test_a_new_section_that_is_refused_is_left_out(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    other = f"127.0.0.1:{free_port()}"
    both = {**services(bind), "other": {"bind": other, "service": "web", "check": False}}
    async with drive(services=both) as driver:
        await driver.apply(origins[0])
        tracking = {**services(bind, frontend_lines=TRACK), "other": both["other"]}
        bad = {"backend table": "nonsense here", "ring more": ["format raw", "size 32764"]}
        assert await driver.consumer.reconfigure(driver.configured(services=tracking, sections=bad))
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        await wait_until_served(fetch, other, origins[1])
        states = await refused(driver)
        assert states["section 'backend table'"] == "left out"
        assert states["service 'web'"] == "served with its last accepted options"
        assert len(states) == 2
        assert "ring more\n" in text(driver)
        good = {**bad, "backend table": GOOD}
        assert await driver.consumer.reconfigure(driver.configured(services=tracking, sections=good))
        await driver.apply(origins[2])
        assert await refused(driver) == {}


async def test_a_service_in_its_accepted_form_has_the_sections_of_then(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    async with drive(services=services(bind, frontend_lines=TRACK), sections={"backend table": GOOD}) as driver:
        await driver.apply(origins[0])
        changed = services(bind, backend_lines="nonsense here")
        assert await driver.consumer.reconfigure(driver.configured(services=changed, sections={}))
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        assert await refused(driver) == {"service 'web'": "served with its last accepted options"}


@pytest.mark.parametrize("cache", [{"size": "2MB", "max_object_size": "1MB"}])
async def test_a_cache_is_a_part_of_its_service(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, cache: dict[str, Any]
) -> None:
    broken = services(bind, cache=cache, backend_lines="http-request cache-use no-such-cache")
    async with drive(services=services(bind)) as driver:
        await driver.apply(origins[0])
        assert await driver.consumer.reconfigure(driver.configured(services=broken))
        await driver.apply(origins[1])
        await wait_until_served(fetch, bind, origins[1])
        assert await refused(driver) == {"service 'web'": "served with its last accepted options"}
        assert await driver.consumer.reconfigure(driver.configured(services=services(bind, cache=cache)))
        await driver.apply(origins[2])
        assert await refused(driver) == {}
        assert "cache discovery:web\n" in text(driver)


async def test_no_hash_of_a_userlist_is_told(drive: Drive, origins: Origins, bind: str) -> None:
    users = {"userlist staff": ["user alice password $5$the-secret", "user bob password $5$the-secret nonsense"]}
    async with drive(services=services(bind), sections=users) as driver:
        await driver.apply(origins[0])
        assert "section 'userlist staff'" in await refused(driver)
        told = (await driver.consumer.health()).detail, await driver.preview(origins[0]), repr(driver.log.entries)
        assert "user bob password ***" in told[0]
        assert "+    user alice password ***" in told[1]
        assert not [each for each in told if "the-secret" in each]
