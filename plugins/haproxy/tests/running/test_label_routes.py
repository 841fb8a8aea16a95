"""Services that HAProxy serves because labels ask for that, with real HAProxy."""

import asyncio
from pathlib import Path

from haproxy_driver import Drive, same_worker, ways
from web_client import get

from discovery import Backend
from discovery.testing import backend
from discovery_haproxy.label_routes.requests import HOST, PATH

Origins = tuple[Backend, ...]


async def body(bind: str, host: str, path: str = "/") -> str:
    """Return the body of the answer, or the status if there is an error."""
    answer = await asyncio.to_thread(get, int(bind.rpartition(":")[2]), path, host=host)
    return answer.body if answer.status == 200 else str(answer.status)


def labelled(origin: Backend, service: str, host: str, path: str = "") -> Backend:
    return backend(service, "1", port=origin.port, labels={HOST: host, PATH: path} if path else {HOST: host})


async def test_labels_make_haproxy_serve_a_service_and_change_routes_without_a_reload(
    drive: Drive, origins: Origins, bind: str, tmp_path: Path
) -> None:
    first, second, third, _ = origins
    async with drive(bind=bind, label_routes=["*.example.com"]) as driver:
        await driver.apply(labelled(first, "shop", "shop.example.com"), backend("plain", port=third.port))
        assert await body(bind, "shop.example.com") == str(first.port)
        assert await body(bind, "plain") == "503"
        shop, api = labelled(first, "shop", "shop.example.com"), labelled(second, "api", "shop.example.com", "/api")
        await driver.apply(shop, api)
        assert await body(bind, "shop.example.com", "/api/x") == str(second.port)
        assert await body(bind, "shop.example.com") == str(first.port)
        async with same_worker(driver):
            await driver.apply(labelled(first, "shop", "www.example.com"), api)
            assert await body(bind, "www.example.com") == str(first.port)
            assert await body(bind, "shop.example.com") == "503"
        assert ways(driver) == {"runtime": 1, "reload": 1}


async def test_who_asks_in_vain_is_named_and_changes_nothing(drive: Drive, origins: Origins, bind: str) -> None:
    first, second, third, _ = origins
    async with drive(bind=bind, label_routes="*.example.com") as driver:
        shop = labelled(first, "shop", "shop.example.com")
        await driver.apply(shop)
        thief = labelled(second, "aaa", "shop.example.com")
        await driver.apply(shop, thief, labelled(third, "evil", "a.example.com\x0b} use_backend x"))
        assert await body(bind, "shop.example.com") == str(first.port)
        assert driver.has_logged("the service 'shop' has it, whose backend '1' is older")
        health = await driver.consumer.health()
        assert (health.ok, health.state) == (True, "degraded")
        found = (await driver.consumer.inspect())["label_routes"]
        assert found["routes"] == {"shop": {"hosts": ["shop.example.com"], "path": "/"}}
        assert len(found["refused"]) == 2
        assert "the service 'shop' has it" in await driver.preview(shop, thief)
        await driver.apply(thief)
        assert await body(bind, "shop.example.com") == str(second.port)
        assert (await driver.consumer.health()).state == "ok"
