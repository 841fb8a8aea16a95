"""An import that blocks is named, ends in a fault of that plugin alone, and is not begun a second time."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.daemon.config import load_settings
from discovery.daemon.instances import build
from discovery.errors import PluginError
from discovery.hosting import importing, loading
from discovery.hosting.importing import within_limit
from discovery.testing import eventually_sync

BLOCKS = """
import time
from pathlib import Path

while not Path({!r}).exists():
    time.sleep(0.01)

from discovery import hookimpl

@hookimpl
def discovery_backends_changed(changes):
    pass
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "TELL_SECONDS", 0.05)
    monkeypatch.setattr(importing, "MOST_SECONDS", 0.1)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def ended(what: str) -> Callable[[], bool]:
    return lambda: f"import-{what}" not in [each.name for each in threading.enumerate()]


def test_what_an_import_returns_or_raises_is_passed_on() -> None:
    assert within_limit("quick", lambda: 5) == 5
    with pytest.raises(SystemExit):
        within_limit("quick", lambda: exec("raise SystemExit(3)"))


def test_an_import_that_blocks_is_named_and_given_up(gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(PluginError, match=r"has not ended within 0.1 s, at .*line \d"),
    ):
        within_limit("slow", gate.wait)
    assert "the plugin 'slow' is being imported for 0.05 s now, at " in caplog.text
    with pytest.raises(PluginError, match="has not ended"):
        within_limit("slow", lambda: pytest.fail("it is imported twice at once"))
    assert within_limit("other", lambda: 5) == 5
    gate.set()
    eventually_sync(ended("slow"))
    assert within_limit("slow", lambda: 6) == 6


def test_two_threads_may_load_a_plugin_at_once(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "MOST_SECONDS", 60.0)
    first = threading.Thread(target=lambda: within_limit("shared", gate.wait))
    first.start()
    eventually_sync(lambda: not ended("shared")())
    results: list[int] = []
    second = threading.Thread(target=lambda: results.append(within_limit("shared", lambda: 7)))
    second.start()
    gate.set()
    first.join()
    second.join()
    assert results == [7]


def test_a_plugin_that_blocks_its_import_takes_down_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = tmp_path / "go on"
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_text(BLOCKS.format(str(go_on)))
    good.write_text(BLOCKS.format(str(tmp_path)))
    config = tmp_path / "discovery.toml"
    config.write_text('[consumers.bad]\nplugin = "./bad.py"\n[consumers.good]\nplugin = "./good.py"\n')
    monkeypatch.setattr(importing, "MOST_SECONDS", 60.0)
    assert loading.load(str(good)).provides
    monkeypatch.setattr(importing, "MOST_SECONDS", 1.0)
    built = build(load_settings(config))
    assert built.usable == ("good",)
    assert f"({bad}) cannot be loaded: its import has not ended within 1 s, at {bad}, line 6" in built.broken["bad"]
    go_on.touch()
    eventually_sync(ended(str(bad)))
    assert build(load_settings(config)).usable == ("bad", "good")
