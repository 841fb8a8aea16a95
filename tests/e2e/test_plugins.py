"""What a third-party plugin can bring besides a consumer, and how plugins are listed."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import Starter
from third_party import FIXED

from discovery.testing import within

ABSTRACT = """
from discovery import Consumer, PluginConfig, hookimpl

class Abstract(Consumer[PluginConfig]):
    pass

@hookimpl
def discovery_register_consumers(register):
    register("abstract", Abstract)
"""


def discovery(start_daemon: Starter, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*start_daemon.command, *arguments]
    environment = {**os.environ, **start_daemon.environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=within(30), env=environment, check=False)


def test_a_registry_from_a_plugin_serves_every_command(
    start_daemon: Starter, install_plugin: Callable[..., None]
) -> None:
    install_plugin("fixed", FIXED)
    listed = discovery(start_daemon, "services", "--json", "--registry", "fixed://10.0.0.1:80")
    assert listed.returncode == 0, listed.stderr
    document = json.loads(listed.stdout)
    assert document["revision"] == 7
    assert document["services"]["web"][0]["host"] == "10.0.0.1"


@pytest.mark.costly
def test_plugins_are_listed_with_what_they_provide_and_what_is_wrong(
    tmp_path: Path, start_daemon: Starter, install_plugin: Callable[..., None]
) -> None:
    install_plugin("fixed", FIXED)
    install_plugin("broken", "import no_such_module_anywhere")
    install_plugin("abstract", ABSTRACT)
    listed = discovery(start_daemon, "plugins", "--json")
    plugins = {each["name"]: each for each in json.loads(listed.stdout)}
    assert plugins["haproxy"]["provides"] == ["consumer haproxy"]
    assert plugins["fixed"]["provides"] == ["registry fixed://"]
    assert "no_such_module_anywhere" in plugins["broken"]["error"]
    assert "it lacks apply" in plugins["abstract"]["error"]
    assert listed.returncode == 1
    assert "Traceback" not in listed.stderr
    (tmp_path / "it.toml").write_text('[consumers.abstract]\nplugin = "abstract"\n[consumers.x]\nplugin = "haproxy"\n')
    checked = discovery(start_daemon, "config", "check", "--offline", "--json", str(tmp_path / "it.toml"))
    assert [each for each in json.loads(checked.stdout)["faults"] if "it lacks apply" in each]


def test_an_unknown_scheme_names_those_that_are_known(start_daemon: Starter) -> None:
    listed = discovery(start_daemon, "services", "--registry", "consul://127.0.0.1:8500")
    assert listed.returncode == 2
    assert "'consul' is not known; known are etcd, etcds, file, memory" in listed.stderr
