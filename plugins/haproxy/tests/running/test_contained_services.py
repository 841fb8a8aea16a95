"""A refused item of one service: the other services follow the registry, the offender serves in its accepted form."""

from pathlib import Path

import pytest
from haproxy_driver import Drive, wait_until_served
from haproxy_web import Fetch
from sampling import sampled

from discovery import Backend
from discovery.testing import backend, free_port

Origins = tuple[Backend, ...]


def of(service: str, origin: Backend, name: str = "") -> Backend:
    return backend(service=service, id=name or f"{service}-{origin.port}", port=origin.port)


def two(web: str, api: str, **web_options: object) -> dict[str, object]:
    return {"web": {"bind": web, "check": False, **web_options}, "api": {"bind": api, "check": False}}


REJECTED = [{"backend_lines": ["nonsense here"]}, {"server_options": "nonsense"}, {"frontend_lines": ["nonsense here"]}]


@pytest.mark.parametrize("options", sampled(REJECTED))
async def test_a_rejected_option_leaves_its_service_at_the_accepted_options_and_the_others_current(
    drive: Drive, fetch: Fetch, origins: Origins, options: dict[str, object]
) -> None:
    web, api = (f"127.0.0.1:{free_port()}" for _ in range(2))
    async with drive(services=two(web, api, balance="first")) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        assert await driver.consumer.reconfigure(driver.configured(services=two(web, api, **options)))
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        await wait_until_served(fetch, web, origins[1])
        await wait_until_served(fetch, api, origins[1])
        assert "balance first" in (driver.run_dir / "haproxy.cfg").read_text()
        health = await driver.consumer.health()
        assert not health.ok
        assert "service 'web' refused, served with its last accepted options" in health.detail
        assert "nonsense" in health.detail
        assert "\n" not in health.detail
        details = await driver.consumer.inspect()
        assert [each["part"] for each in details["refused"]] == ["service 'web'"]
        counts = {s.labels["kind"]: s.value for s in driver.consumer.metrics() if s.name == "refused_parts"}
        assert counts == {"service": 1, "bind": 0, "settings": 0, "stats": 0, "section": 0}
        assert driver.has_logged("service 'web' refused")
        assert await driver.consumer.reconfigure(driver.configured(services=two(web, api, balance="leastconn")))
        await driver.apply(of("web", origins[2]), of("api", origins[2]))
        await wait_until_served(fetch, web, origins[2])
        assert "balance leastconn" in (driver.run_dir / "haproxy.cfg").read_text()
        assert (await driver.consumer.health()).ok
        assert (await driver.consumer.inspect())["refused"] == []
        assert driver.has_logged("service 'web' is as configured again")


@pytest.mark.parametrize("options", sampled(REJECTED))
async def test_a_service_without_an_accepted_form_is_left_out_and_answers_503(
    drive: Drive, fetch: Fetch, origins: Origins, options: dict[str, object]
) -> None:
    web, api = (f"127.0.0.1:{free_port()}" for _ in range(2))
    async with drive(services=two(web, api, **options)) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        await wait_until_served(fetch, api, origins[0])
        assert fetch(f"http://{web}/").status == 503
        assert "service 'web' refused, left out" in (await driver.consumer.health()).detail


async def test_a_server_that_own_lines_name_may_leave(drive: Drive, fetch: Fetch, origins: Origins) -> None:
    web, api = (f"127.0.0.1:{free_port()}" for _ in range(2))
    rule = {"backend_lines": ["use-server b2 if { path /two }"]}
    async with drive(services=two(web, api, **rule)) as driver:
        await driver.apply(of("web", origins[0], "b1"), of("web", origins[1], "b2"), of("api", origins[0]))
        assert fetch(f"http://{web}/two").body == str(origins[1].port)
        await driver.apply(of("web", origins[2], "b1"), of("api", origins[1]))
        await wait_until_served(fetch, web, origins[2])
        await wait_until_served(fetch, api, origins[1])
        assert fetch(f"http://{web}/two").body == str(origins[2].port)
        assert "unable to find server 'b2'" in (await driver.consumer.health()).detail
        await driver.apply(of("web", origins[2], "b1"), of("web", origins[3], "b2"), of("api", origins[1]))
        await wait_until_served(fetch, web, origins[2])
        assert fetch(f"http://{web}/two").body == str(origins[3].port)
        assert (await driver.consumer.health()).ok


async def test_a_server_that_own_lines_name_may_have_left_before_a_start(
    drive: Drive, fetch: Fetch, origins: Origins
) -> None:
    web, api = (f"127.0.0.1:{free_port()}" for _ in range(2))
    services = two(web, api, backend_lines=["use-server b2 if { path /two }"])
    async with drive(services=services) as driver:
        await driver.apply(of("web", origins[0], "b1"), of("web", origins[1], "b2"), of("api", origins[0]))
    async with drive(services=services) as driver:
        await driver.apply(of("web", origins[2], "b1"), of("api", origins[1]))
        await wait_until_served(fetch, web, origins[2])
        await wait_until_served(fetch, api, origins[1])
        assert fetch(f"http://{web}/two").body == str(origins[2].port)
        assert "unable to find server 'b2'" in (await driver.consumer.health()).detail


async def test_two_offenders_at_once_are_both_found(drive: Drive, fetch: Fetch, origins: Origins) -> None:
    binds = {name: f"127.0.0.1:{free_port()}" for name in ("web", "api", "db")}
    good = {name: {"bind": each, "check": False} for name, each in binds.items()}
    async with drive(services=good) as driver:
        await driver.apply(*(of(name, origins[0]) for name in binds))
        bad = {
            **good,
            "web": {**good["web"], "backend_lines": ["nonsense"]},
            "api": {**good["api"], "backend_lines": ["use-server gone if TRUE"]},
        }
        assert await driver.consumer.reconfigure(driver.configured(services=bad))
        await driver.apply(*(of(name, origins[1]) for name in binds))
        for each in binds.values():
            await wait_until_served(fetch, each, origins[1])
        refused = (await driver.consumer.inspect())["refused"]
        assert [each["part"] for each in refused] == ["service 'api'", "service 'web'"]


async def test_accepted_options_serve_after_a_restart_with_rejected_options(
    drive: Drive, fetch: Fetch, origins: Origins, run_dir: Path
) -> None:
    web, api = (f"127.0.0.1:{free_port()}" for _ in range(2))
    async with drive(services=two(web, api, balance="first")) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
    async with drive(services=two(web, api, backend_lines=["nonsense"])) as driver:
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        await wait_until_served(fetch, web, origins[1])
        await wait_until_served(fetch, api, origins[1])
        assert "balance first" in (run_dir / "haproxy.cfg").read_text()


async def test_a_missing_file_of_users_closes_the_statistics_alone(
    drive: Drive, fetch: Fetch, origins: Origins, tmp_path: Path
) -> None:
    web, api, stats = (f"127.0.0.1:{free_port()}" for _ in range(3))
    users = {"address": stats, "users_file": str(tmp_path / "missing")}
    async with drive(services=two(web, api), stats=users) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        await wait_until_served(fetch, web, origins[0])
        await driver.apply(of("web", origins[1]), of("api", origins[0]))
        await wait_until_served(fetch, web, origins[1])
        details = await driver.consumer.inspect()
        assert [each["part"] for each in details["refused"]] == ["the address of 'stats'"]
        (tmp_path / "missing").write_text("alice:secret\n")
        await driver.apply_again()
        assert (await driver.consumer.health()).ok
        assert fetch(f"http://{stats}/").status == 401


async def test_the_health_names_the_file_of_a_long_alert(drive: Drive, origins: Origins, tmp_path: Path) -> None:
    web, api = (f"127.0.0.1:{free_port()}" for _ in range(2))
    missing = tmp_path / ("d" * 40) / "web.users"
    lines = [f"http-request auth realm restricted unless {{ http_auth_user -m str -f {missing} }}"]
    async with drive(services=two(web, api, backend_lines=lines)) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        detail = (await driver.consumer.health()).detail
        assert str(missing) in detail
        assert detail.startswith("service 'web' refused, left out: line ")
        assert len(detail) < 400
