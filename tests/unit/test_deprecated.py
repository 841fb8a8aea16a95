"""What plugins could import before keeps working, with a warning that says where it is now."""

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

PRIVATE = "is private to the core now"
MOVED = {
    "discovery.backoff": {"delays": "discovery.toolkit"},
    "discovery.certificates": {
        "Certificate": "discovery.toolkit",
        "read_certificate": "discovery.toolkit",
        "parse_certificate": PRIVATE,
        "expiry": PRIVATE,
        "expired": PRIVATE,
    },
    "discovery.embedded": {"find_program": PRIVATE, "wheel_program": "discovery.toolkit", "EmbeddedEtcd": PRIVATE},
    "discovery.environment": {
        "PASSWORD_VARIABLE": PRIVATE,
        "for_children": "import child_environment from discovery.toolkit",
    },
    "discovery.files": {
        "write_atomically": "discovery.toolkit",
        "write_within": PRIVATE,
        "FileWatch": "discovery.toolkit",
        "TreeWatch": PRIVATE,
    },
    "discovery.filewatch": {"FileWatch": "discovery.toolkit", "TreeWatch": PRIVATE},
    "discovery.kernel": {"pidfd_open": PRIVATE, "pidfd_send_signal": PRIVATE, "memfd_create": "discovery.toolkit"},
    "discovery.lastnames": {"Found": PRIVATE, "DEBOUNCE": PRIVATE, "LastNames": "discovery.toolkit"},
    "discovery.listening": {
        "meet": "import binds_conflict from discovery.toolkit",
        "listening": "import tcp_sockets_listening_at from discovery.toolkit",
        "listening_at": "import unix_sockets_at from discovery.toolkit",
        "owners": "import processes_with_sockets from discovery.toolkit",
        "by": "import format_holders from discovery.toolkit",
    },
    "discovery.logs": {
        "LogFormat": PRIVATE,
        "LogLevel": PRIVATE,
        "configure_logging": PRIVATE,
        "log_format": "discovery.toolkit",
    },
    "discovery.lookups": {
        "Found": PRIVATE,
        "Lookup": "discovery.toolkit",
        "Lookups": PRIVATE,
        "RememberedLookups": PRIVATE,
    },
    "discovery.names": {"EVERY": PRIVATE, "Names": "discovery.toolkit", "reached": PRIVATE},
    "discovery.networks": {
        "UNIX": "discovery.fields",
        "network": "discovery.fields",
        "Network": "discovery.fields",
        "Networks": "discovery.fields",
        "Senders": "discovery.fields",
    },
    "discovery.rundir": {
        "LOOK_EVERY": PRIVATE,
        "SOCKET_PATH_BYTES": "discovery.toolkit",
        "is_too_long_for_a_socket": "discovery.toolkit",
        "run_dir_path": PRIVATE,
        "user_state_dir": PRIVATE,
        "base_run_dir": PRIVATE,
        "make_private": PRIVATE,
        "check_run_dir": PRIVATE,
        "Lock": PRIVATE,
        "lock": PRIVATE,
        "keep": PRIVATE,
        "is_free": PRIVATE,
        "holder": PRIVATE,
    },
    "discovery.terminal": {"shows_colours": PRIVATE, "printable": "discovery.toolkit"},
    "discovery.validation": {
        "M": PRIVATE,
        "Faults": PRIVATE,
        "validate": PRIVATE,
        "dotted": PRIVATE,
        "in_words": PRIVATE,
    },
}
"""The names of each module that moved, with a part of the warning: where each is now."""
KEPT = {
    "discovery.checks": "Verdict Outcome Probe NamedProbe Check",
    "discovery.codec": "MAX_VALUE MAX_LABELS MAX_LABEL_VALUE MAX_WEIGHT Record Unreadable decode encode validate"
    " stated_ttl validate_owner key_of split_key parse_address",
    "discovery.errors": "DiscoveryError ConfigError RecordError PluginError CannotStartError ApplyError RegistryError"
    " RegistryUnavailableError AccessDeniedError OwnedByAnotherError LeaseLostError describe",
    "discovery.hookspecs": "hookspec hookimpl discovery_register_consumers discovery_register_providers"
    " discovery_register_registries discovery_backends_changed",
    "discovery.model": "T Endpoint Addresses State Backend Service Rejected Snapshot Changes diff",
    "discovery.plugin": "PluginConfig C Update Health Validation Sample Context Consumer AnyConsumer Candidate"
    " Inventory Provider AnyProvider",
}
"""The names of the modules that have not moved."""


@pytest.mark.parametrize(
    ("module", "name", "place"),
    [(module, name, place) for module, names in MOVED.items() for name, place in names.items()],
)
def test_a_name_that_moved_works_with_a_warning_at_the_line_that_imports_it(module: str, name: str, place: str) -> None:
    with pytest.warns(DeprecationWarning, match=name) as caught:
        exec(f"from {module} import {name}", {"__name__": "outside"})
    (warning,) = caught
    assert f"{module}.{name} " in str(warning.message)
    assert place in str(warning.message)
    assert warning.filename == "<string>"


@pytest.mark.parametrize("module", KEPT)
def test_a_module_that_has_not_moved_offers_its_names_without_a_warning(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        there = importlib.import_module(module)
        assert [name for name in KEPT[module].split() if not hasattr(there, name)] == []


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    module = importlib.import_module("discovery.files")
    for name in ("no_such_name", "_MOST_LINKS"):
        with pytest.raises(AttributeError, match=name):
            getattr(module, name)


def test_a_warning_names_the_file_and_line_of_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("\nfrom discovery.files import write_atomically\n")
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", "import mine"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "mine.py:2: DeprecationWarning: discovery.files.write_atomically has moved" in run.stderr


def test_the_core_itself_uses_no_former_module() -> None:
    program = "import sys, discovery.cli.app, discovery.daemon.daemon\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:discovery", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"discovery.deprecated", *MOVED}.isdisjoint(run.stdout.split())
