"""A plugin that is one file: its name, its classes, and what is wrong with it."""

from pathlib import Path

import pytest

from discovery import ConfigError
from discovery.daemon.config import load_settings
from discovery.daemon.instances import Instances, build, load
from discovery.daemon.settings import Overrides
from discovery.errors import PluginError
from discovery.hosting import loading

CONSUMER = """
from pathlib import Path
from discovery import Consumer, PluginConfig, Update

class Options(PluginConfig):
    path: Path

class Base(Consumer[Options]):
    Config = Options

class Mine(Base):
    async def apply(self, update: Update) -> None:
        self.config.path.write_text(str(update.snapshot.revision))
"""
PROVIDER = """
from discovery import Inventory, PluginConfig, Provider

class Mine(Provider[PluginConfig]):
    async def discover(self):
        yield Inventory()
"""
OBSERVER = """
from discovery import hookimpl

@hookimpl
def discovery_backends_changed(changes, snapshot):
    print(changes)
"""
REGISTRY = """
from discovery import hookimpl

@hookimpl
def discovery_register_registries(register):
    register("mine", print)
"""
REGISTERS = """
from discovery import hookimpl

@hookimpl
def discovery_register_consumers(register):
    register("another-name", Mine)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("source", "provides"),
    [
        (CONSUMER, ("consumer mine",)),
        (PROVIDER, ("provider mine",)),
        (OBSERVER, ("observer mine",)),
        (CONSUMER + REGISTERS, ("consumer mine",)),
        (CONSUMER.replace("class Mine", "class Other") + PROVIDER, ("consumer mine", "provider mine")),
    ],
    ids=["consumer", "provider", "observer", "hook", "both"],
)
def test_what_a_file_defines_has_the_name_of_the_file(file: Path, source: str, provides: tuple[str, ...]) -> None:
    file.write_text(source)
    assert loading.load(str(file)).provides == provides


def test_an_option_adds_an_instance_that_options_set(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(CONSUMER)
    monkeypatch.chdir(file.parent)
    settings, instances = load(None, Overrides(plugins=("./mine.py",), assignments=("mine.path=/tmp/x",)))
    assert settings.consumers["mine"].plugin == str(file)
    assert instances.consumers["mine"].consumer.__name__ == "Mine"


def test_an_option_does_not_pass_for_another_plugin_of_that_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(OBSERVER)
    config = file.with_name("discovery.toml")
    config.write_text('[consumers.mine]\nplugin = "./mine.py"\n')
    monkeypatch.chdir(file.parent)
    for same in ("./mine.py", str(file), f"{file.parent}/../{file.parent.name}/mine.py"):
        assert load(config, Overrides(plugins=(same,)))[1].usable == ("mine",)
    config.write_text('[consumers.mine]\nplugin = "haproxy"\n')
    with pytest.raises(
        ConfigError, match=r"--plugin ./mine.py: there is an instance 'mine' already, of the plugin 'hap"
    ):
        load(config, Overrides(plugins=("./mine.py",)))


def test_a_relative_path_in_a_configuration_begins_at_its_file(file: Path) -> None:
    file.write_text(CONSUMER)
    config = file.with_name("discovery.toml")
    config.write_text('[consumers.first]\nplugin = "mine.py"\npath = "/tmp/x"\n')
    assert build(load_settings(config)).usable == ("first",)


def test_the_same_file_is_the_same_class_and_a_changed_file_is_another(file: Path) -> None:
    file.write_text(CONSUMER)
    first = loading.consumer_class(str(file))
    assert loading.consumer_class(str(file)) is first
    file.write_text(CONSUMER + "\n")
    assert loading.consumer_class(str(file)) is not first


def test_a_file_that_has_become_wrong_leaves_the_loaded_one_alone(file: Path) -> None:
    file.write_text(CONSUMER)
    first = loading.consumer_class(str(file))
    file.write_text("def")
    with pytest.raises(PluginError):
        loading.consumer_class(str(file))
    file.write_text(CONSUMER)
    assert loading.consumer_class(str(file)).__name__ == first.__name__


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def", "SyntaxError"),
        ("import no_such_module", "no_such_module"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "registers nothing"),
        (REGISTRY, "registers registry mine://: a registry is found by its scheme, and therefore has to be installed"),
        (CONSUMER + "\nclass Second(Base):\n    pass\n", "several consumers, Mine, Second"),
    ],
)
def test_a_file_that_does_not_work_is_told_with_its_path(file: Path, source: str, message: str) -> None:
    file.write_text(source)
    with pytest.raises(PluginError, match=message) as told:
        loading.load(str(file))
    assert str(file) in str(told.value)


def test_a_file_that_is_not_there_or_has_no_usable_name_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing.py does not exist"):
        loading.load(str(tmp_path / "missing.py"))
    with pytest.raises(ConfigError, match="is not a file"):
        loading.load(str(tmp_path))
    (tmp_path / "my plugin.py").write_text(CONSUMER)
    with pytest.raises(ConfigError, match="the file's name is not"):
        loading.load(str(tmp_path / "my plugin.py"))


def test_a_name_without_a_path_is_never_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(CONSUMER)
    monkeypatch.chdir(file.parent)
    with pytest.raises(ConfigError, match="there is no plugin 'mine'"):
        loading.load("mine")
    assert not Path("__pycache__").exists()


def test_a_broken_file_takes_down_itself_alone(file: Path) -> None:
    file.write_text("def")
    good = file.with_name("good.py")
    good.write_text(OBSERVER)
    config = file.with_name("discovery.toml")
    config.write_text('[consumers.bad]\nplugin = "./mine.py"\n[consumers.good]\nplugin = "./good.py"\n')
    built: Instances = build(load_settings(config))
    assert built.usable == ("good",)
    assert str(file) in built.broken["bad"]
