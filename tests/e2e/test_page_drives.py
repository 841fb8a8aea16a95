"""What a consumer drives, on the live page: what it has a place for, as `explain` tells, not all that it follows."""

import re
import urllib.request
from html import unescape
from pathlib import Path

import pytest
from daemons import Daemon, RecordFiles, Starter

from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = pytest.mark.warm

SILENT = """
from discovery import Consumer, PluginConfig, hookimpl

class Silent(Consumer[PluginConfig]):
    def apply(self, update):
        pass

@hookimpl
def discovery_register_consumers(register):
    register("silent", Silent)
"""
FAULTY = {
    "raising": 'raise RuntimeError("broken")',
    "junk": 'return dict(zip((each.key for each in backends), (7, "a text", [None]), strict=True))',
}
"""What `explain` does that explains nothing."""
CONFIG = """
[consumers.edge]
plugin = "haproxy"
services.web = {{ bind = "127.0.0.1:{web}", check = false }}
[consumers.tcp]
plugin = "tcpproxy"
workers = 1
listen.web = {{ bind = "127.0.0.1:{tcp}" }}
[consumers.file]
plugin = "template"
files = [{{ template = "{template}", file = "{dest}", format = "plain" }}]
[consumers.silent]
plugin = "{silent}"
"""


def page_of(daemon: Daemon) -> str:
    request = urllib.request.Request(f"http://{daemon.admin}/", headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=within(20)) as answer:
        return str(answer.read().decode())


def drives(daemon: Daemon, name: str) -> str:
    """The cell of a consumer, as text."""
    row = page_of(daemon).partition(f'id="consumer-{name}"')[2].partition("</tr>")[0]
    cell = row.partition('data-label="Drives">')[2].partition("</td>")[0]
    return " ".join(unescape(re.sub("<[^>]*>", "", cell)).split())


def told(daemon: Daemon, name: str) -> str:
    """The consumer's line of the diagram as text."""
    return " ".join(unescape(page_of(daemon)).partition(f"<li>Consumer {name}: ")[2].partition("</li>")[0].split())


def test_a_consumer_drives_what_it_has_a_place_for(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    require_program("haproxy")
    url, write = file_registry
    silent, template, config = tmp_path / "silent.py", tmp_path / "file.j2", tmp_path / "discovery.toml"
    silent.write_text(SILENT)
    template.write_text("{% for each in services['web'].backends %}{{ each.host }} {{ each.port }}\n{% endfor %}")
    for record in ("web/w1", "web/w2", "db/d1"):
        write(record, f"127.0.0.1:{free_port()}")
    paths = {"template": template, "dest": tmp_path / "file", "silent": silent}
    config.write_text(CONFIG.format(web=free_port(), tcp=free_port(), **paths))
    daemon = start_daemon("--registry", url, "--config", str(config))
    eventually_sync(daemon.is_ready, timeout=60)
    eventually_sync(lambda: drives(daemon, "edge") == "1 service, 2 backends", timeout=60)
    eventually_sync(lambda: drives(daemon, "tcp") == "1 service, 2 backends", timeout=60)
    partly = "1 service, 2 backends. It does not tell what it makes of 1 more backend."
    eventually_sync(lambda: drives(daemon, "file") == partly, timeout=60)
    assert drives(daemon, "silent") == "It follows 2 services, 3 backends, and does not tell what it makes of them."
    assert told(daemon, "edge").endswith("drives web")
    assert told(daemon, "file").endswith("drives web, follows db")
    assert told(daemon, "silent").endswith("follows db, web")
    write("web/w3", f"127.0.0.1:{free_port()}")
    eventually_sync(lambda: drives(daemon, "edge") == "1 service, 3 backends", timeout=60)
    more = f'workers = 1\nlisten.db = {{ bind = "127.0.0.1:{free_port()}" }}\n'
    config.write_text(config.read_text().replace("workers = 1\n", more))
    eventually_sync(lambda: drives(daemon, "tcp") == "2 services, 4 backends", "other listeners", timeout=60)


def test_a_consumer_whose_explanations_fail_or_are_none_does_not_tell_what_it_drives(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    config = tmp_path / "discovery.toml"
    with config.open("w") as file:
        for name, statement in FAULTY.items():
            plugin = tmp_path / f"{name}.py"
            method = f"    def explain(self, backends):\n        {statement}\n"
            plugin.write_text(SILENT.replace("pass\n", f"pass\n\n{method}"))
            file.write(f'[consumers.{name}]\nplugin = "{plugin}"\n')
    for record in ("web/w1", "web/w2", "db/d1"):
        write(record, f"127.0.0.1:{free_port()}")
    daemon = start_daemon("--registry", url, "--config", str(config))
    eventually_sync(daemon.is_ready, timeout=60)
    silent = "It follows 2 services, 3 backends, and does not tell what it makes of them."
    for name in FAULTY:
        eventually_sync(lambda name=name: drives(daemon, name) == silent, f"{name} to be told as silent", timeout=60)
        assert told(daemon, name).endswith("follows db, web")
