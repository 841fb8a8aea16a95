"""Modules that are now in the plugin docker: imports of the former names work, with a warning."""

import importlib
import subprocess
import sys

import pytest

MOVED = {
    "announce": ("announce", "Machine", "discovery_docker.announce"),
    "candidates": ("candidates", "find_candidates", "discovery_docker.candidates"),
    "candidates.status_check": ("candidates", "status_check", "discovery_apache.statuscheck"),
    "commands": ("commands", "register_container", "discovery_docker.commands"),
    "config": ("config", "checks_of", "discovery_docker.config"),
    "container": ("container", "Container", "discovery_docker.container"),
    "conventions": ("conventions", "ServiceVariables", "discovery_docker.conventions"),
    "dockerapi": ("dockerapi", "EngineError", "discovery_docker.dockerapi"),
    "engine": ("engine", "Engine", "discovery_docker.engine"),
    "selection": ("selection", "base_name", "discovery_docker.naming"),
    "selection.images": ("selection", "APACHE_IMAGES", "discovery_apache.rules"),
}


@pytest.mark.parametrize(("module", "name", "home"), MOVED.values(), ids=MOVED)
def test_a_name_that_moved_works_with_a_warning_at_the_line_that_imports_it(module: str, name: str, home: str) -> None:
    former = f"discovery_apache.{module}"
    with pytest.warns(DeprecationWarning, match=name) as caught:
        exec(f"from {former} import {name}", there := dict[str, object](__name__="outside"))
    (warning,) = caught
    assert str(warning.message) == f"{former}.{name} has moved, and 0.3 lacks it here: import {name} from {home}"
    assert warning.filename == "<string>"
    assert there[name] is getattr(importlib.import_module(home), name)


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    module = importlib.import_module("discovery_apache.engine")
    for name in ("no_such_name", "_PING_TIMEOUT"):
        with pytest.raises(AttributeError, match=name):
            getattr(module, name)


def test_the_plugin_itself_uses_no_former_module() -> None:
    program = "import sys, discovery_apache.provider\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:discovery_apache", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {f"discovery_apache.{module}" for module, _, _ in MOVED.values() if module != "config"} & {
        *run.stdout.split()
    }
