"""The settings with which a user asks for a check."""

from pathlib import Path
from typing import Any

import pytest

from discovery.checks import Check, Probe
from discovery.daemon.faults import validate
from discovery.errors import ConfigError
from discovery.plugin import PluginConfig
from discovery.probes import CheckSettings, CommandProbe, HttpProbe, TcpProbe


class Plugin(PluginConfig):
    check: CheckSettings = CheckSettings()


def settings(**check: Any) -> CheckSettings:
    return validate(Plugin, {"check": check}, "d.toml", ("providers", "web")).check


@pytest.mark.parametrize(
    ("check", "probe"),
    [
        ({}, TcpProbe()),
        ({"type": "tcp", "address": "[::1]:81"}, TcpProbe(("::1", 81))),
        ({"type": "http"}, HttpProbe()),
        ({"type": "http", "status": 200}, HttpProbe(status=((200, 200),))),
        ({"type": "http", "status": "200-299, 404"}, HttpProbe(status=((200, 299), (404, 404)))),
        ({"type": "http", "status": [200, "300-399"]}, HttpProbe(status=((200, 200), (300, 399)))),
        (
            {"type": "http", "path": "/up", "method": "HEAD", "body": "ok", "host": "a", "tls": True, "verify": False,
             "ca": "/ca.pem", "address": "a:81"},
            HttpProbe("/up", "HEAD", ((200, 399),), "ok", "a", True, False, Path("/ca.pem"), ("a", 81)),
        ),
        ({"type": "command", "command": ["/bin/true", "x"]}, CommandProbe(("/bin/true", "x"))),
        ({"type": "command", "command": ["a"], "draining_exit": 2}, CommandProbe(("a",), 2)),
    ],
)  # fmt: skip
def test_settings_make_the_check_they_say(check: dict[str, Any], probe: Probe) -> None:
    assert settings(**check).checks() == (Check(probe),)


def test_the_rules_of_a_check() -> None:
    made = settings(interval=1, timeout=0.5, rise=1, fall=2, on_failure="drain").checks()
    assert made == (Check(TcpProbe(), 1.0, 0.5, 1, 2, "drain"),)
    assert settings(type="none").checks() == ()


def test_equal_settings_make_equal_checks() -> None:
    once, again = (settings(type="http", path="/up", body="ok").checks() for _ in range(2))
    assert once == again
    assert hash(once) == hash(again)


def test_a_caller_may_replace_path_interval_and_timeout() -> None:
    configured = settings(type="http", path="/up", status=204)
    assert configured.checks(path="/x", interval=7, timeout=3) == (Check(HttpProbe("/x", status=((204, 204),)), 7, 3),)
    assert settings(type="none").checks(path="/x") == (Check(HttpProbe("/x")),)
    assert settings(type="tcp").checks(path="/x") == (Check(HttpProbe("/x")),)
    for wrong in ({"path": "x"}, {"interval": 0.0}, {"interval": float("nan")}, {"timeout": 1e9}):
        with pytest.raises(
            ValueError, match=r"^(must be an HTTP path|(interval|timeout): .* is not a duration from 100ms to 1h)"
        ):
            configured.checks(**wrong)


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        ({"type": "htp"}, ".type: must be 'http', 'tcp', 'command' or 'none' (got 'htp')"),
        ({"type": "http", "pth": "/"}, ".pth: unknown key; did you mean 'path'?"),
        ({"type": "tcp", "path": "/"}, ": 'path' is for type \"http\", and the type of this check is \"tcp\""),
        (
            {"type": "none", "address": "a:1"},
            ": 'address' is for type \"http\" or \"tcp\", and the type of this check is \"none\"",
        ),
        ({"type": "command"}, ": type \"command\" needs the key 'command'"),
        (
            {"type": "command", "command": "a b"},
            '.command: must be a list, the program and its arguments: ["/usr/bin/check", "-q"]; no shell runs',
        ),
        ({"type": "command", "command": []}, ".command: must be a list"),
        ({"type": "command", "command": [""]}, ".command: must begin with a program's name"),
        ({"type": "http", "path": "up"}, ".path: must be an HTTP path: it starts with '/'"),
        ({"type": "http", "status": "2xx"}, ".status: write statuses as 200, \"200-399\", or a list"),
        ({"type": "http", "status": "399-200"}, ".status: the range 399-200 is empty"),
        ({"type": "http", "status": True}, ".status: write statuses as"),
        ({"type": "http", "status": []}, ".status: write statuses as"),
        ({"type": "http", "body": "("}, ".body: is not a regex of RE2: missing ): ( (got '(')"),
        ({"address": "nonsense"}, ".address: "),
        ({"interval": 0}, ".interval: 0 is not a duration from 100ms to 1h: write a number of seconds"),
        ({"timeout": -1}, ".timeout: -1 is not a duration from 100ms to 1h"),
        ({"fall": 0}, ".fall: 0 is not a whole number from 1 to 1000"),
        ({"on_failure": "drian"}, ".on_failure: must be 'withdraw' or 'drain' (got 'drian')"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_told_in_a_line_with_its_place(check: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**check)
    assert str(caught.value).startswith(f"d.toml: providers.web.check{fault}")
    assert "\n" not in str(caught.value)


def test_the_settings_have_a_json_schema() -> None:
    properties = Plugin.model_json_schema()["$defs"]["CheckSettings"]["properties"]
    assert {"anyOf", "default"} <= properties["status"].keys()
    assert properties["command"]["default"] is None
