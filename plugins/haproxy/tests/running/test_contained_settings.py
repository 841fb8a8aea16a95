"""Refused global settings and templates: the last accepted settings serve, with the present services and backends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from haproxy_driver import Drive, wait_until_served
from haproxy_web import Fetch
from sampling import sampled

from discovery import Backend
from discovery.testing import backend, free_port

Origins = tuple[Backend, ...]
BUILT_IN = "{% include 'builtin/haproxy.cfg.j2' %}\n"


def of(service: str, origin: Backend) -> Backend:
    return backend(service=service, id=f"{service}-{origin.port}", port=origin.port)


def binds() -> tuple[str, str]:
    return f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    "refused",
    sampled(
        [
            {"global_lines": ["nonsense here"]},
            {"defaults_lines": ["nonsense here"]},
            {"defaults_lines": ["log-format %{nonsense}"], "retries": 7},
            {"global_lines": ["tune.bufsize nonsense"], "timeouts": {"connect": "4s"}},
        ]
    ),
)
async def test_refused_settings_are_replaced_as_a_whole_and_services_follow(
    drive: Drive, fetch: Fetch, origins: Origins, refused: Mapping[str, Any]
) -> None:
    web, api = binds()
    good = {"global_lines": ["tune.maxrewrite 1000"], "retries": 5}
    one = {"web": {"bind": web, "check": False}}
    two = {**one, "api": {"bind": api, "check": False}}
    async with drive(services=one, **good) as driver:
        await driver.apply(of("web", origins[0]))
        assert await driver.consumer.reconfigure(driver.configured(services=two, **{**good, **refused}))
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        await wait_until_served(fetch, web, origins[1])
        await wait_until_served(fetch, api, origins[1])
        text = (driver.run_dir / "haproxy.cfg").read_text()
        assert "retries 5" in text
        assert "tune.maxrewrite 1000" in text
        assert "timeout connect 5s" in text
        detail = (await driver.consumer.health()).detail
        assert "the global settings refused, kept in their last accepted form" in detail
        assert await driver.consumer.reconfigure(driver.configured(services=two, retries=6))
        await driver.apply_again()
        assert "retries 6" in (driver.run_dir / "haproxy.cfg").read_text()
        assert (await driver.consumer.health()).ok
        assert driver.has_logged("the global settings are as configured again")


BROKEN = [
    BUILT_IN + "frontend x\n    bnid :80\n",
    "{{ no_such_thing }}",
    "{% if %}",
    BUILT_IN + "{% for service in services %}backend x-{{ service.name }}\n    nonsense\n{% endfor %}",
    "{% extends 'builtin/haproxy.cfg.j2' %}{% block service %}{{ super() | raw }}\n    nonsense\n{% endblock %}",
    "{% extends 'builtin/haproxy.cfg.j2' %}{% block frontend %}{{ super() | raw }}\n    nonsense\n{% endblock %}",
]


@pytest.mark.parametrize("broken", sampled(BROKEN, 2))
async def test_a_broken_template_is_replaced_by_the_accepted_template_also_after_a_restart(
    drive: Drive, fetch: Fetch, origins: Origins, tmp_path: Path, broken: str
) -> None:
    web, api = binds()
    services = {"web": {"bind": web, "check": False}, "api": {"bind": api, "check": False}}
    part = tmp_path / "part.cfg.j2"
    part.write_text("# included\n")
    template = tmp_path / "mine.cfg.j2"
    template.write_text(BUILT_IN + "{% include 'part.cfg.j2' %}\n# mine\n")
    async with drive(services=services, template=template, files=[part]) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        template.write_text(broken)
        part.write_text("{{ broken as well }}\n")
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        await wait_until_served(fetch, web, origins[1])
        await wait_until_served(fetch, api, origins[1])
        refused = (await driver.consumer.inspect())["refused"]
        assert [each["part"] for each in refused] == ["the global settings"]
    async with drive(services=services, template=template, files=[part]) as driver:
        await driver.apply(of("web", origins[2]), of("api", origins[2]))
        await wait_until_served(fetch, web, origins[2])
        await wait_until_served(fetch, api, origins[2])
        text = (driver.run_dir / "haproxy.cfg").read_text()
        assert "# mine" in text
        assert "# included" in text
        template.write_text(BUILT_IN + "# repaired\n")
        await driver.apply(of("web", origins[3]), of("api", origins[3]))
        await wait_until_served(fetch, web, origins[3])
        assert "# repaired" in (driver.run_dir / "haproxy.cfg").read_text()
        assert (await driver.consumer.health()).ok


async def test_a_refused_setting_and_a_refused_service_are_both_found(
    drive: Drive, fetch: Fetch, origins: Origins
) -> None:
    web, api = binds()
    good = {"web": {"bind": web, "check": False}, "api": {"bind": api, "check": False}}
    bad = {**good, "web": {"bind": web, "check": False, "backend_lines": ["nonsense"]}}
    async with drive(services=good) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        assert await driver.consumer.reconfigure(driver.configured(services=bad, defaults_lines=["nonsense"]))
        await driver.apply(of("web", origins[1]), of("api", origins[1]))
        await wait_until_served(fetch, web, origins[1])
        await wait_until_served(fetch, api, origins[1])
        refused = (await driver.consumer.inspect())["refused"]
        assert {each["part"] for each in refused} == {"the global settings", "service 'web'"}
