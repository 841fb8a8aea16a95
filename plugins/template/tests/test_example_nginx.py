"""The example in `examples/nginx`: short, and it serves."""

import asyncio
import tomllib
from pathlib import Path
from typing import Any

from template_driving import driven
from template_origins import ask, origin

from discovery import Backend
from discovery.daemon.config import load_settings
from discovery.testing import eventually, free_port, require_program
from discovery_template.consumer import TemplateConsumer

EXAMPLE = Path(__file__).parents[3] / "examples/nginx"
MOST_LINES = 40
"""Lines of configuration and template of nginx through the template plugin, as issue 11 limits them."""


def test_configuration_and_template_are_short() -> None:
    lines = [line for path in EXAMPLE.iterdir() if path.suffix != ".md" for line in path.read_text().splitlines()]
    assert len(lines) <= MOST_LINES


def test_the_configuration_is_valid() -> None:
    assert load_settings(EXAMPLE / "discovery.toml").registry.scheme == "etcd"


async def test_nginx_serves_the_services_of_the_registry(tmp_path: Path) -> None:
    port = free_port()
    nginx = str(require_program("nginx"))
    configuration = (EXAMPLE / "discovery.toml").read_text().replace("/etc/discovery", str(tmp_path))
    table: dict[str, Any] = tomllib.loads(configuration.replace("8080", str(port)))["consumers"]["edge"]
    assert table.pop("plugin") == "template"
    own = ["-e", "stderr", "-p", str(tmp_path)]
    table["run"]["command"] = [nginx, *own, *table["run"]["command"][1:]]
    table["run"]["command"][-1] += f" pid {tmp_path}/pid;"
    table["files"][0]["check"] = [nginx, *own, *table["files"][0]["check"][1:], "-g", f"pid {tmp_path}/pid;"]
    template = (EXAMPLE / "nginx.conf.j2").read_text().replace("8080", str(port))
    directories = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    template = template.replace("http {", f"http {{ access_log off; {directories}")
    (tmp_path / "nginx.conf.j2").write_text(template)
    with origin("web") as web, origin("api") as api:
        async with driven(TemplateConsumer, table, tmp_path) as driver:
            await driver.apply(Backend("web", "1", "127.0.0.1", web))
            assert await asyncio.to_thread(ask, port, "web.example.com") == "web /"
            await eventually(lambda: ask(port, "api") == "503", "the default server to answer")
            await driver.apply(Backend("web", "1", "127.0.0.1", web), Backend("api", "1", "127.0.0.1", api))
            await eventually(lambda: ask(port, "api") == "api /", "the new service, whichever worker accepts")
