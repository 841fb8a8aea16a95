"""What a plugin raises where the core asks for its options and faults stays a fault of that plugin."""

from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import field_validator

from discovery import Consumer, PluginConfig, Update, Validation
from discovery.consuming.runner import ConsumerInstance
from discovery.daemon.config import parse_settings
from discovery.daemon.instances import Instances, build
from discovery.daemon.once import check_once
from discovery.daemon.settings import Overrides
from discovery.daemon.validation import NOTHING, validate_instances
from discovery.hosting import loading
from discovery.hosting.directories import Directories

LOG = structlog.get_logger()


class Picky(PluginConfig):
    path: str = ""

    @field_validator("path")
    @classmethod
    def _look(cls, path: str) -> str:
        raise OSError("as always")


class Quiet(Consumer[Any]):
    async def apply(self, update: Update) -> None:
        pass


class Demanding(Quiet):
    Config = Picky


class NeverMade(Quiet):
    def __init__(self, config: Any, context: Any) -> None:
        raise RuntimeError("not today")


class AnswersNothing(Quiet):
    async def validate(self, update: Update) -> Validation:
        return None  # type: ignore[return-value]


def instances(consumer: type[Consumer[Any]]) -> Instances:
    return Instances({"it": ConsumerInstance("it", "it", consumer, PluginConfig())}, {}, {})


def test_a_validator_that_fails_makes_that_plugin_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {"it": Demanding, "other": Quiet}
    monkeypatch.setattr(loading, "consumer_class", classes.__getitem__)
    tables = {"it": {"plugin": "it", "path": "x"}, "other": {"plugin": "other"}}
    built = build(parse_settings({"consumers": tables}, Overrides()))
    assert built.broken == {"it": "the plugin 'it' cannot validate its options: OSError: as always"}
    assert list(built.consumers) == ["other"]


@pytest.mark.parametrize(
    ("consumer", "reason"), [(NeverMade, "RuntimeError: not today"), (AnswersNothing, "`validate` returned None")]
)
async def test_a_validation_that_fails_is_reported(tmp_path: Path, consumer: type[Consumer[Any]], reason: str) -> None:
    directories = Directories(tmp_path / "run", tmp_path / "state")
    found = await validate_instances(instances(consumer), [NOTHING], directories, LOG)
    assert found.faults == ()
    assert [line for line in found.unchecked if line.startswith("consumers.it: ") and reason in line]


def test_a_consumer_that_cannot_be_made_fails_in_its_own_apply(tmp_path: Path) -> None:
    check_once(instances(NeverMade), Directories(tmp_path / "run", tmp_path / "state"), LOG)
