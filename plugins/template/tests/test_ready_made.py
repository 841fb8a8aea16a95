"""The ready-made templates, as the real programs read what they make of a registry with hostile labels."""

import asyncio
import json
import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from xml.etree import ElementTree as ET

import pytest
from sampling import sampled
from template_driving import Driver, driven
from template_hostile import HOSTILE
from template_origins import answer, ask, origin, origin_at
from template_proxies import require

from discovery import Backend, State
from discovery.testing import eventually, free_port, require_program, within
from discovery_template.consumer import TemplateConsumer
from discovery_template.proxies.caddy import CaddyConsumer
from discovery_template.proxies.httpd import _MODULE_DIRECTORIES as MODULE_DIRECTORIES

LABELS = {f"l{number}": text for number, text in enumerate(HOSTILE) if text.isprintable()}
SERVICES = ("web", "api.v1", "_x-1", "idle", "gone")
"""Services that the programs are configured for; `gone` is not registered."""
EXPECTED = {
    "web": {"one": 1, "two": 3, "six": 2},
    "api.v1": {"one": 1},
    "_x-1": {"two": 1},
    "idle": {},
    "gone": {},
}
"""The weights of the backends that get new connections, by the origin that they are."""


def backends(ports: Mapping[str, int]) -> list[Backend]:
    """Return the backends, whose origins listen on these ports: `six` by IPv6."""

    def one(service: str, key: str, weight: int = 1, state: State = State.ACTIVE) -> Backend:
        host = "::1" if key == "six" else "127.0.0.1"
        return Backend(service, f"{key}-{weight}-{state}", host, ports[key], weight, state, labels=LABELS)

    return [
        *(one(service, key, weight) for service, keys in EXPECTED.items() for key, weight in keys.items()),
        one("web", "drained", 256, State.DRAINING),
        one("web", "drained", 0),
        one("idle", "drained", 0),
    ]


@pytest.fixture
def ports() -> Any:
    """Run the origins."""
    with ExitStack() as stack:
        found = {name: stack.enter_context(origin(name)) for name in ("one", "two", "drained")}
        yield found | {"six": stack.enter_context(origin_at("::1", "six"))}


def table(name: str, file: Path, **options: Any) -> dict[str, Any]:
    """Return the options of a consumer with a ready-made template for all services."""
    return {
        "files": [{"template": f"builtin:{name}", "file": str(file), "variables": {"services": SERVICES}}],
        **options,
    }


async def shares(port: int) -> dict[str, dict[str, int]]:
    """Return how often each origin answers, for a number of requests that is the sum of the weights."""
    found = {}
    for service, keys in EXPECTED.items():
        asked = [await asyncio.to_thread(ask, port, "h", f"/{service}") for _ in range(sum(keys.values()) or 1)]
        found[service] = dict(Counter(each.split()[0] for each in asked))
    return found


NGINX = """
daemon off; pid DIR/pid; error_log stderr; worker_processes 1; events {}
http { access_log off; include DIR/upstreams.conf;
client_body_temp_path DIR/1; proxy_temp_path DIR/2; fastcgi_temp_path DIR/3;
uwsgi_temp_path DIR/4; scgi_temp_path DIR/5;
server { listen 127.0.0.1:PORT; location = /none { return 404; } LOCATIONS }
}
"""
HTTPD = """
ServerName localhost
ServerRoot DIR
PidFile DIR/pid
ErrorLog /dev/stderr
Listen 127.0.0.1:PORT
User "#65534"
Group "#65534"
MODULES
Include DIR/balancers.conf
<Location /balancers>
SetHandler balancer-manager
</Location>
LOCATIONS
"""


async def by_nginx(directory: Path, ports: Mapping[str, int]) -> None:
    """Check which origins nginx asks, and how often."""
    nginx, port = str(require_program("nginx")), free_port()
    locations = "".join(f"location = /{each} {{ proxy_pass http://{each}; }} " for each in SERVICES)
    text = NGINX.replace("DIR", str(directory)).replace("PORT", str(port)).replace("LOCATIONS", locations)
    (directory / "nginx.conf").write_text(text)
    run = [nginx, "-e", "stderr", "-p", str(directory), "-c", str(directory / "nginx.conf")]
    config = table("nginx-upstreams", directory / "upstreams.conf", run=run)
    async with driven(TemplateConsumer, config, directory) as driver:
        await applied(driver, ports)
        await eventually(lambda: answer(port, "h", "/none")[0] == 404, "nginx to listen")
        assert await shares(port) == {**EXPECTED, "idle": {"502": 1}, "gone": {"502": 1}}


async def by_httpd(directory: Path, ports: Mapping[str, int]) -> None:
    """Check which origins httpd knows, with which load factors, and that httpd asks one."""
    httpd, port = str(require_program("apache2")), free_port()
    modules = next(each for each in MODULE_DIRECTORIES if Path(each).is_dir())
    names = ("mpm_event", "authz_core", "slotmem_shm", "proxy", "proxy_http", "proxy_balancer", "lbmethod_byrequests")
    load = "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in names)
    locations = "".join(f"ProxyPass /{each} balancer://{each}/{each}\n" for each in SERVICES)
    text = HTTPD.replace("DIR", str(directory)).replace("PORT", str(port))
    (directory / "httpd.conf").write_text(text.replace("MODULES", load).replace("LOCATIONS", locations))
    run = {"command": [httpd, "-DFOREGROUND", "-f", str(directory / "httpd.conf")], "stop_signal": "TERM"}
    async with driven(
        TemplateConsumer, table("httpd-balancers", directory / "balancers.conf", run=run), directory
    ) as driver:
        await applied(driver, ports)
        await eventually(lambda: answer(port, "h", "/none")[0] == 404, "httpd to listen")
        body = await asyncio.to_thread(balancers, port)
        by_port = {str(number): name for name, number in ports.items()}
        found = {}
        for balancer in ET.fromstring(body).findall(".//{*}balancer"):
            workers = balancer.findall("{*}workers/{*}worker")
            factors = {
                by_port[str(each.findtext("{*}name")).rpartition(":")[2].rstrip("/")]: each.findtext("{*}loadfactor")
                for each in workers
            }
            found[str(balancer.findtext("{*}name")).removeprefix("balancer://")] = factors
        assert found == {
            service: {key: f"{weight}.00" for key, weight in keys.items()} for service, keys in EXPECTED.items()
        }
        asked = await shares(port)
        assert {service: set(keys) for service, keys in asked.items()} == {
            service: set(keys) or {"503"} for service, keys in EXPECTED.items()
        }


def balancers(port: int) -> str:
    """Return what httpd's balancer-manager tells of all balancers, in XML."""
    referer = f"http://127.0.0.1:{port}/balancers"  # without which the question is ignored
    with urlopen(Request(f"{referer}?xml=1", headers={"Referer": referer}), timeout=within(10)) as answer:
        return str(answer.read().decode())


async def by_caddy(directory: Path, ports: Mapping[str, int]) -> None:
    """Check which origins Caddy knows, with which weights."""
    require(CaddyConsumer)
    caddy = CaddyConsumer.carried(None)  # type: ignore[arg-type]
    sites = "".join(f"http://{each}.test {{\n\timport {each}\n}}\n" for each in SERVICES)
    (directory / "Caddyfile").write_text(f"import {directory}/services.caddyfile\n{sites}")
    async with driven(TemplateConsumer, table("caddyfile", directory / "services.caddyfile"), directory) as driver:
        await applied(driver, ports)
    command = [str(caddy), "adapt", "--validate", "--config", str(directory / "Caddyfile")]
    environment = {"HOME": str(directory), "PATH": os.environ["PATH"]}
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    by_port = {str(number): name for name, number in ports.items()}
    found = {}
    for route in json.loads(done.stdout)["apps"]["http"]["servers"]["srv0"]["routes"]:
        (handler,) = route["handle"][0]["routes"][0]["handle"]
        names = [by_port[each["dial"].rpartition(":")[2]] for each in handler.get("upstreams", ())]
        weights = handler["load_balancing"]["selection_policy"]["weights"] if names else ()
        found[route["match"][0]["host"][0].removesuffix(".test")] = dict(zip(names, weights, strict=True))
    assert found == EXPECTED


async def by_json(directory: Path, ports: Mapping[str, int]) -> None:
    """Check every field of every backend."""
    async with driven(TemplateConsumer, table("json", directory / "services.json"), directory) as driver:
        await applied(driver, ports)
    given = backends(ports)
    document = json.loads((directory / "services.json").read_text())
    assert document == {
        "services": {
            service: [
                {
                    "id": each.id,
                    "address": each.address,
                    "host": each.host,
                    "port": each.port,
                    "name": each.host,
                    "weight": each.weight,
                    "draining": each.state is State.DRAINING,
                    "labels": LABELS,
                }
                for each in sorted(given, key=lambda each: each.id)
                if each.service == service
            ]
            for service in {each.service for each in given}
        }
    }


async def by_a_reader_of_hosts(directory: Path, ports: Mapping[str, int]) -> None:
    """Check the addresses of each name."""
    config = table("hosts", directory / "hosts")
    config["files"][0]["variables"] = {"domain": "internal"}
    async with driven(TemplateConsumer, config, directory) as driver:
        await applied(driver, ports)
    lines = [line.partition("#")[0].split() for line in (directory / "hosts").read_text().splitlines()]
    assert sorted(filter(None, lines)) == [
        ["127.0.0.1", "_x-1.internal"],
        ["127.0.0.1", "api.v1.internal"],
        ["127.0.0.1", "web.internal"],
        ["::1", "web.internal"],
    ]


async def applied(driver: Driver[TemplateConsumer], ports: Mapping[str, int]) -> None:
    """Apply the backends, none of which is refused."""
    await driver.apply(*backends(ports))
    assert (await driver.consumer.health()).state == "ok"


@pytest.mark.parametrize("check", sampled([by_nginx, by_httpd, by_caddy], 1))
async def test_a_program_reads_what_the_registry_says(check: Any, ports: Mapping[str, int], tmp_path: Path) -> None:
    await check(tmp_path, ports)


@pytest.mark.parametrize("check", [by_json, by_a_reader_of_hosts])
async def test_a_reader_finds_what_the_registry_says(check: Any, tmp_path: Path) -> None:
    await check(tmp_path, {"one": 1, "two": 2, "six": 6, "drained": 9})
