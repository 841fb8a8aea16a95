"""Hostile labels, as the real programs read them from files that templates made."""

import asyncio
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from template_driving import driven
from template_hostile import HOSTILE
from template_origins import answer

from discovery import Backend
from discovery.testing import eventually, free_port, require_program
from discovery_template.consumer import TemplateConsumer
from discovery_template.proxies.caddy import CaddyConsumer
from discovery_template.proxies.httpd import _MODULE_DIRECTORIES as MODULE_DIRECTORIES

NGINX = """
daemon off; pid {{ variables.dir }}/pid; error_log stderr; events {}
http { access_log off;
{% for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] %}
{{ kind }}_temp_path {{ variables.dir }}/{{ kind }};
{% endfor %}
server { listen 127.0.0.1:PORT; location / { return 404; }
{% for service in services %}{% for backend in service.backends %}
    # {{ backend.labels.hostile }}
    location = {{ "/" ~ service.name }} { return 200 {{ "x" ~ backend.labels.hostile }}; }
    location = {{ "/quoted/" ~ service.name }} { return 200 "x{{ backend.labels.hostile }}"; }
{% endfor %}{% endfor %}
}}
"""
HTTPD = """
Listen 127.0.0.1:PORT
ServerName localhost
ServerRoot {{ variables.dir }}
PidFile {{ variables.dir }}/pid
ErrorLog /dev/stderr
User "#65534"
Group "#65534"
{% for name in ["mpm_event", "authz_core", "alias"] %}
LoadModule {{ name }}_module {{ variables.modules }}/mod_{{ name }}.so
{% endfor %}
{% for service in services %}{% for backend in service.backends %}
# {{ backend.labels.hostile }}
<Location {{ "/" ~ service.name }}>
    ErrorDocument 410 {{ "x" ~ backend.labels.hostile }}
    Redirect 410
</Location>
<Location {{ "/quoted/" ~ service.name }}>
    ErrorDocument 410 "x{{ backend.labels.hostile }}"
    Redirect 410
</Location>
{% endfor %}{% endfor %}
"""
CADDYFILE = """
{% for service in services %}{% for backend in service.backends %}
http://{{ service.name }} {
	# {{ backend.labels.hostile }}
	header X-Name {{ service.name }}
	respond {{ "x" ~ backend.labels.hostile }} 200
}
{% endfor %}{% endfor %}
"""
YAML = """
scrape_configs:
- job_name: web
  static_configs:
{% for service in services %}{% for backend in service.backends %}
  - targets: [{{ backend.address }}]
    labels:
      service: {{ service.name }}  # {{ service.name }}
      hostile: {{ backend.labels.hostile }}
      quoted: "x{{ backend.labels.hostile }}"
{% endfor %}{% endfor %}
"""
CONTROL = set("\n\0\x1a\r\t\u2028\ufeff")
"""Characters that no value in a file of lines has."""
NOT_FOR_NGINX = CONTROL | {"$"}


def is_not_for_httpd(text: str) -> bool:
    """Report whether no comment or word of httpd can have the text: a backslash would continue a comment."""
    return bool(set(text) & CONTROL) or "${" in text or "%{" in text or text.endswith("\\")


def is_not_for_caddy(text: str) -> bool:
    """Report whether no word of a Caddyfile can have the text."""
    return bool(set(text) & (CONTROL | set("{}")))


def hostile() -> list[Backend]:
    """Return a service for each hostile label, also for those that the core refuses."""
    return [
        Backend(f"s{number}", "1", "127.0.0.1", 80, labels={"hostile": text, "a-b": text})
        for number, text in enumerate(HOSTILE)
        if not any("\ud800" <= character <= "\udfff" for character in text)
    ]


async def output_of(*command: str) -> str:
    """Return the standard output of a command that must succeed."""
    environment = {"HOME": "/nowhere", "PATH": os.environ["PATH"]}
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


async def check_answers(port: int, status: int, backends: list[Backend], refused: Mapping[str, str]) -> None:
    """Check what the server answers for each service that is not refused."""
    texts = {each.service: each.labels["hostile"] for each in backends if each.service not in refused}
    await eventually(lambda: answer(port, "h", "/none")[0] == 404, "the server to listen")
    found, expected = {}, {}
    for name, text in texts.items():
        for path in (f"/{name}", f"/quoted/{name}"):
            found[path] = await asyncio.to_thread(answer, port, "h", path)
            expected[path] = (status, f"x{text}")
    assert found == expected


async def test_nginx_reads_each_label_as_it_is(tmp_path: Path) -> None:
    nginx, port = str(require_program("nginx")), free_port()
    (tmp_path / "nginx.j2").write_text(NGINX.replace("PORT", str(port)))
    file = tmp_path / "nginx.conf"
    command = [nginx, "-e", "stderr", "-p", str(tmp_path), "-c"]
    table: dict[str, Any] = {"template": str(tmp_path / "nginx.j2"), "file": str(file), "format": "nginx"}
    table |= {"check": [*command, "{file}", "-t", "-q"], "variables": {"dir": str(tmp_path)}}
    backends = hostile()
    async with driven(TemplateConsumer, {"files": [table], "run": [*command, str(file)]}, tmp_path) as driver:
        await driver.apply(*backends)
        refused = (await driver.consumer.inspect())["refused"]
        await check_answers(port, 200, backends, refused)
    assert {each.service for each in backends if set(each.labels["hostile"]) & NOT_FOR_NGINX} == set(refused)


async def test_httpd_reads_each_label_as_it_is(tmp_path: Path) -> None:
    httpd, port = str(require_program("apache2")), free_port()
    (tmp_path / "httpd.j2").write_text(HTTPD.replace("PORT", str(port)))
    file = tmp_path / "httpd.conf"
    modules = next(each for each in MODULE_DIRECTORIES if Path(each).is_dir())
    table: dict[str, Any] = {"template": str(tmp_path / "httpd.j2"), "file": str(file), "format": "apache"}
    table |= {"check": [httpd, "-t", "-f", "{file}"], "variables": {"dir": str(tmp_path), "modules": modules}}
    backends = hostile()
    run = {"command": [httpd, "-DFOREGROUND", "-f", str(file)], "stop_signal": "TERM"}
    async with driven(TemplateConsumer, {"files": [table], "run": run}, tmp_path) as driver:
        await driver.apply(*backends)
        refused = (await driver.consumer.inspect())["refused"]
        await check_answers(port, 410, backends, refused)
    assert {each.service for each in backends if is_not_for_httpd(each.labels["hostile"])} == set(refused)


async def test_caddy_reads_each_label_as_it_is(tmp_path: Path) -> None:
    caddy = CaddyConsumer.carried(None)  # type: ignore[arg-type]
    if caddy is None:
        caddy = str(require_program("caddy"))
    (tmp_path / "caddy.j2").write_text(CADDYFILE)
    file = tmp_path / "Caddyfile"
    backends = hostile()
    table = {"template": str(tmp_path / "caddy.j2"), "file": str(file), "format": "caddyfile"}
    async with driven(TemplateConsumer, {"files": [table]}, tmp_path) as driver:
        await driver.apply(*backends)
        refused = (await driver.consumer.inspect())["refused"]
    adapted = await output_of(caddy, "adapt", "--config", str(file))
    routes = json.loads(adapted)["apps"]["http"]["servers"]["srv0"]["routes"]
    found = {}
    for route in routes:
        (match,) = route["match"]
        handlers = {each["handler"]: each for each in route["handle"][0]["routes"][0]["handle"]}
        found[match["host"][0]] = handlers["static_response"].get("body")
    texts = {each.service: each.labels["hostile"] for each in backends if each.service not in refused}
    assert found == {name: f"x{text}" for name, text in texts.items()}
    assert {each.service for each in backends if is_not_for_caddy(each.labels["hostile"])} == set(refused)


async def test_prometheus_reads_each_label_as_it_is(tmp_path: Path) -> None:
    promtool = str(require_program("promtool"))
    file = tmp_path / "targets.json"
    (tmp_path / "prometheus.yml").write_text(
        f"scrape_configs: [{{job_name: web, file_sd_configs: [{{files: ['{file}']}}]}}]"
    )
    backends = hostile()
    async with driven(
        TemplateConsumer, {"files": [{"template": "builtin:prometheus", "file": str(file)}]}, tmp_path
    ) as driver:
        await driver.apply(*backends)
        assert (await driver.consumer.health()).state == "ok"
    command = [promtool, "check", "service-discovery", "--timeout=1s", str(tmp_path / "prometheus.yml"), "web"]
    output = await output_of(*command)
    found = {each["labels"]["service"]: each["labels"] for each in json.loads(output)}
    assert found.keys() == {backend.service for backend in backends}
    for backend in backends:
        labels = found[backend.service]
        assert labels["__address__"] == backend.address
        for name in ("label_hostile", "label_a_b"):
            assert labels.get(name, "") == backend.labels["hostile"]


async def test_a_reader_of_yaml_reads_each_label_as_it_is(tmp_path: Path) -> None:
    promtool = str(require_program("promtool"))
    (tmp_path / "prometheus.j2").write_text(YAML)
    file = tmp_path / "prometheus.yml"
    backends = hostile()
    table = {"template": str(tmp_path / "prometheus.j2"), "file": str(file), "format": "yaml"}
    async with driven(TemplateConsumer, {"files": [table]}, tmp_path) as driver:
        await driver.apply(*backends)
        assert (await driver.consumer.health()).state == "ok"
    output = await output_of(promtool, "check", "service-discovery", "--timeout=1s", str(file), "web")
    found = {each["labels"]["service"]: each["labels"] for each in json.loads(output)}
    for backend in backends:
        text = backend.labels["hostile"]
        assert found[backend.service].get("hostile", "") == text
        assert found[backend.service]["quoted"] == f"x{text}"
