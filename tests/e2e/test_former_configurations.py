"""Configurations of discovery 0.1 (the commit e0f34d1): each key is accepted, or refused with what replaces it."""

import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from former_release import FORMER, former_discovery

from discovery.cli import main
from discovery.daemon.config import load_settings
from discovery.daemon.instances import build

EVERY_KEY = FORMER / "every_key.toml"
KEYS = frozenset((FORMER / "keys.txt").read_text().split())
"""The keys in the JSON schema of 0.1 with the plugins apache, haproxy and tcpproxy. A name that a person chooses is
`*`."""
TABLES_OF_NAMES = frozenset({"consumers", "providers", "services", "listen", "httpd"})
TABLES_OF_VALUES = frozenset({"labels"})

HAPROXY = '[consumers.edge]\nplugin = "haproxy"\n'
TCPPROXY = '[consumers.edge]\nplugin = "tcpproxy"\n'
NETWORKS = r'name the networks of the proxies in front, such as \["10\.0\.0\.0/8"\]'
PORT = r"write 127\.0\.0\.1:80 for this machine alone, 0\.0\.0\.0:80 for every IPv4 address, or \[::\]:80"
DURATION = r"true is not a duration from \S+ .*: write a number of seconds, or a time such as 500ms, 10s, 5m or 2h"
REFUSED = {
    "haproxy, accept_proxy": (
        HAPROXY + 'services.web.bind = { address = "127.0.0.1:80", accept_proxy = true }',
        rf"consumers\.edge\.services\.web\.bind\.0\.accept_proxy: .*{NETWORKS}",
    ),
    "tcpproxy, accept_proxy": (
        TCPPROXY + 'listen.web = { bind = "127.0.0.1:80", accept_proxy = true }',
        rf"consumers\.edge\.listen\.web\.accept_proxy: .*{NETWORKS}",
    ),
    "haproxy, bind": (HAPROXY + 'bind = ":80"', rf"consumers\.edge\.bind\.0\.address: .*{PORT}"),
    "haproxy, stats": (HAPROXY + 'stats = ":80"', rf"consumers\.edge\.stats\.address: .*{PORT}"),
    "tcpproxy, bind": (TCPPROXY + 'listen.web = ":80"', rf"consumers\.edge\.listen\.web\.bind\.0: .*{PORT}"),
    "admin": (f'admin = ":80"\n{HAPROXY}', rf'admin: .*{PORT} .*or "off"'),
    "hosts": (
        HAPROXY + 'services.web.hosts = ["*.example.*"]',
        r"hosts\.0: .* write example\.com, \*\.example\.com, example\.\* or \*",
    ),
    "quiet_period": (HAPROXY + "quiet_period = true", rf"consumers\.edge\.quiet_period: {DURATION}"),
    "check": ('[providers.web]\nplugin = "apache"\ncheck.interval = true', rf"check\.interval: {DURATION}"),
    "ttl": ('[providers.web]\nplugin = "apache"\nttl = true', rf"providers\.web\.ttl: {DURATION}"),
    "one address of two instances": (
        HAPROXY + '[consumers.other]\nplugin = "haproxy"',
        r"consumers\.other: 127\.0\.0\.1:8080 is an address of consumers\.edge as well: give one another address",
    ),
}
"""Configurations that 0.1 accepts and this release refuses, with the line that names the way out."""


def keys(table: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the keys of a configuration as KEYS has them."""
    for key, value in table.items():
        here = (*path, "*" if path and path[-1] in TABLES_OF_NAMES else key)
        if here[-1] != "*":
            yield ".".join(here)
        if key in TABLES_OF_VALUES:
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield from keys(each, here)


def test_every_key_of_the_former_schema_is_in_the_configuration_that_is_tested() -> None:
    covered = set(keys(tomllib.loads(EVERY_KEY.read_text())))
    # Refused where it is true; see below. A bind has it at two places and a listener at one.
    refused = {key for key in KEYS if key.endswith(".accept_proxy")}
    assert len(refused) == 3
    assert KEYS - covered - refused == set()
    assert covered - KEYS == set()


def test_every_key_of_the_former_release_is_accepted(tmp_path: Path) -> None:
    instances = build(load_settings(EVERY_KEY))
    assert sorted(instances.usable) == ["apache", "edge", "local", "other", "program", "tcp", "unit"]


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_now_names_what_replaces_it(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text, expected = REFUSED[case]
    file = tmp_path / "discovery.toml"
    file.write_text(text)
    assert main(["config", "check", str(file), "--offline", "--run-dir", str(tmp_path / "run")]) == 2
    assert re.search(expected, capfd.readouterr().err)


@pytest.mark.exhaustive
def test_the_former_release_accepts_what_is_refused_now(tmp_path: Path) -> None:
    program = former_discovery()
    for text, _ in REFUSED.values():
        if "apache" in text:
            continue  # the plugin is not among the recorded sources
        file = tmp_path / "discovery.toml"
        file.write_text(text)
        subprocess.run([program, "config", "check", file], check=True)
