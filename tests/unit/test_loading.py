"""Plugins that cannot work are refused when they are loaded, each with its reason, and no other plugin is affected."""

import importlib
import itertools
import threading
from pathlib import Path

import pytest
import structlog
from third_party import install

from discovery import ConfigError, Context, PluginConfig, Update, diff
from discovery.daemon.instances import load
from discovery.daemon.settings import Overrides
from discovery.errors import PluginError
from discovery.hosting import loading
from discovery.hosting.compatibility import unsupported
from discovery.system.either import completed
from discovery.testing import backend, eventually_sync, snapshot

HEAD = """
from typing import Any
import abc
from pydantic import Field
from discovery import Consumer, PluginConfig, Provider, hookimpl

class Good(Consumer[Any]):
    async def apply(self, update): pass

class Finds(Provider[Any]):
    async def discover(self):
        yield None
"""
CONSUMER = """
@hookimpl
def discovery_register_consumers(register):
    register({name!r}, It)
"""
PROVIDER = """
@hookimpl
def discovery_register_providers(register):
    register({name!r}, It)
"""
REGISTRY = """
@hookimpl
def discovery_register_registries(register):
    register({scheme!r}, It)
"""
GOOD = HEAD + "It = Good\n" + CONSUMER
OBSERVER = """
from discovery import hookimpl

told = []

@hookimpl
async def discovery_backends_changed(changes, snapshot):
    told.append((snapshot.revision, len(changes.added)))
"""
NAMES = (f"thirdparty{number}" for number in itertools.count())  # a module that was imported stays imported


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def installed(site: Path, source: str, **metadata: str) -> str:
    """The name of a plugin with this source, beside which a good one is installed."""
    name, good = next(NAMES), next(NAMES)
    install(site, name, source.replace("{name!r}", repr(name)), **metadata)
    install(site, good, GOOD.replace("{name!r}", repr(good)))
    assert loading.load(good).provides == (f"consumer {good}",)
    return name


CONSUMERS = {
    "It = 5": "is a int, which is no subclass of Consumer",
    "It = None": "is None, which is no subclass of Consumer",
    "class It: pass": "is the class It, which is no subclass of Consumer",
    "It = Finds": "is the class Finds, which is no subclass of Consumer; a Provider is registered by"
    " discovery_register_providers",
    "It = Good({}, None)": "is a Good, which is no subclass of Consumer; register the class, not an instance",
    "class It(Consumer[Any]): pass": "the class It is abstract: it lacks apply",
    "class It(Good):\n    @abc.abstractmethod\n    def open(self): ...": "the class It is abstract: it lacks open",
    "class It(Good): Config = dict": "its Config is the class dict, which is no subclass of PluginConfig",
    "class It(Good): Config = None": "its Config is None, which is no subclass of PluginConfig",
    "class It(Good):\n    class Config(PluginConfig):\n        quiet_period: int = 3": "the core reads 'quiet_period'"
    " of an instance's table itself: rename the option",
    "class It(Good):\n    class Config(PluginConfig):\n        of: str = Field('', alias='plugin')": "the core reads"
    " 'plugin' of an instance's table itself",
    "class It(Good):\n    class Config(PluginConfig):\n        unknown: 'NoSuchType'": "NoSuchType",
    "class It(Good):\n    async def apply(self): pass": "It.apply(self) cannot be called as the core does: too many",
    "class It(Good):\n    apply = None": "It.apply is no method",
    "class It(Good):\n    def __init__(self): pass": "It() cannot be called as the core does: too many",
    "class It(Good):\n    async def health(self, more): pass": "It.health(self, more) cannot be called",
    "class It(Good):\n    def resident(self): return False": "It.resident is a method: write @property above it",
    "class It(Good):\n    def stop_seconds(self): return 60": "It.stop_seconds is a method: write @property above it",
    "class It(Good):\n    async def metrics(self): return []": "It.metrics is called from any thread: write it with",
    "class It(Good):\n    def end_orphans(self, context): return {}": "It.end_orphans has no instance: write"
    " @classmethod above it",
    "class It(Good):\n    @classmethod\n    def end_orphans(cls): return {}": "It.end_orphans() cannot be called as the"
    " core does: too many",
    "It = Good\n@hookimpl\ndef discovery_backends_changed(changes): pass": "a consumer and the observer of"
    " discovery_backends_changed have the name",
    "raise SystemExit(3)": "SystemExit: 3",
    "import asyncio; raise asyncio.CancelledError": "CancelledError",
    "It = no_such_name": "NameError: name 'no_such_name' is not defined",
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "It = Good\n@hookimpl\ndef discovery_register_providers(register): raise OSError('as always')": "as always",
    "It = Good\n@hookimpl\ndef discovery_register_providers(register): register(5, Finds)": "5 is registered as a name",
    "It = Good\n@hookimpl\ndef discovery_register_providers(wrong): pass": "wrong",
    "It = Good\n@hookimpl\ndef discovery_no_such_hook(): pass": "discovery_no_such_hook",
}
PROVIDERS = {
    "It = Good": "is the class Good, which is no subclass of Provider",
    "class It(Provider[Any]): pass": "the class It is abstract: it lacks discover",
    "class It(Finds):\n    class Config(PluginConfig):\n        ttl: int = 3\n        owner: str = ''": "the core reads"
    " 'owner', 'ttl' of an instance's table itself",
}


@pytest.mark.parametrize("body", CONSUMERS)
def test_a_consumer_that_cannot_work_is_refused(site: Path, body: str) -> None:
    name = installed(site, f"{HEAD}\n{body}\n{CONSUMER}")
    with pytest.raises(PluginError) as raised:
        loading.load(name)
    assert str(raised.value).startswith(f"the plugin {name!r} ({name} 1.0) cannot be loaded: ")
    assert CONSUMERS[body] in str(raised.value)


@pytest.mark.parametrize("body", PROVIDERS)
def test_a_provider_that_cannot_work_is_refused(site: Path, body: str) -> None:
    name = installed(site, f"{HEAD}\n{body}\n{PROVIDER}")
    with pytest.raises(PluginError) as raised:
        loading.load(name)
    assert PROVIDERS[body] in str(raised.value)


@pytest.mark.parametrize(
    ("scheme", "it", "reason"),
    [
        ("etcd", "It = print", "the scheme 'etcd' is claimed by the core as well: choose another"),
        ("Other", "It = print", "the scheme 'Other' is not in lower case"),
        ("other", "It = 'other'", "the registry 'other' is a str, which cannot be called with a URL"),
    ],
)
def test_a_registry_that_cannot_work_is_refused(site: Path, scheme: str, it: str, reason: str) -> None:
    name = installed(site, HEAD + it + REGISTRY.replace("{scheme!r}", repr(scheme)))
    with pytest.raises(PluginError) as raised:
        loading.load(name)
    assert reason in str(raised.value)


def test_a_configuration_with_faults_leaves_no_registry_open(site: Path) -> None:
    name = installed(site, HEAD + "It = print" + REGISTRY.replace("{scheme!r}", "{name!r}"))
    config = site / "discovery.toml"
    config.write_text(f'registry = {{ url = "{name}://" }}\n[consumers.it]\nplugin = "no-such-plugin"\n')
    with pytest.raises(ConfigError, match="no-such-plugin"):
        load(config, Overrides())
    eventually_sync(lambda: f"registry-{name}" not in [each.name for each in threading.enumerate()])


def test_a_name_registered_twice_is_refused(site: Path) -> None:
    name = installed(site, GOOD + "    register({name!r}, Good)\n")
    with pytest.raises(PluginError, match=f"'{name}' is registered twice"):
        loading.load(name)


@pytest.mark.parametrize(
    ("source", "provides"),
    [
        (GOOD.replace("{name!r}", "'another'"), "consumer another"),
        (HEAD + "It = print" + REGISTRY.replace("{scheme!r}", "'another'"), "registry another://"),
    ],
)
def test_what_has_another_name_than_the_entry_point_could_never_be_used(site: Path, source: str, provides: str) -> None:
    name = installed(site, source)
    with pytest.raises(PluginError) as raised:
        loading.load(name)
    assert f"({name} 1.0) registers {provides}, and nothing of its own name: an entry point" in str(raised.value)


def test_a_class_may_have_values_in_place_of_properties(site: Path) -> None:
    name = installed(site, f"{HEAD}\nclass It(Good):\n    resident = False\n    stop_seconds = 60.0\n{CONSUMER}")
    assert loading.load(name).provides == (f"consumer {name}",)


def test_a_name_claimed_twice_refuses_that_name_alone(site: Path) -> None:
    name = installed(site, GOOD)
    install(site, name, GOOD, f"another-{name}")
    with pytest.raises(PluginError, match=f"'{name}' is claimed by 2 distributions, another-{name} and {name}"):
        loading.load(name)
    assert loading.load("haproxy").provides == ("consumer haproxy",)
    assert name in loading.installed()


def test_a_plugin_for_another_core_is_refused_and_not_imported(site: Path) -> None:
    name = installed(site, "raise AssertionError('imported')", requires="discovery-framework>=7,<8")
    with pytest.raises(PluginError) as raised:
        loading.load(name)
    assert "cannot be loaded: it supports discovery-framework <8,>=7, and " in str(raised.value)


@pytest.mark.parametrize("form", ["def", "async def"])
async def test_an_observer_is_a_function_of_either_form(site: Path, form: str) -> None:
    name = installed(site, OBSERVER.replace("async def", form))
    assert loading.load(name).provides == (f"observer {name}",)
    made = loading.consumer_class(name)(PluginConfig(), Context(name, site, structlog.get_logger()))
    assert not made.resident  # `run --once` tells an observer once
    before, after = snapshot(backend(), revision=1), snapshot(revision=2)
    for update in (Update(before, None, diff(None, before)), Update(after, before, diff(before, after))):
        await completed(made.apply(update))
    assert importlib.import_module(name).told == [(1, 1), (2, 0)]


def test_an_unknown_plugin_is_an_error_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="did you mean 'haproxy'"):
        loading.load("haproxi")


@pytest.mark.parametrize(
    ("requirement", "versions", "others"),
    [
        ("discovery-framework", "0.1 1.0 99", ""),
        ("discovery-framework>=0.1,<0.2", "0.1 0.1.0 0.1.9 0.1.5.dev3", "0.2 0.2.0 1.0 0.0.9"),
        ("discovery_framework (<0.2,>=0.1)", "0.1.3", "0.2"),
        ("Discovery.Framework[demo] >= 1.2", "1.2 1.10 2.0", "1.1.9 0.9"),
        ("discovery-framework~=1.4", "1.4 1.5.2", "2.0 1.3"),
        ("discovery-framework~=1.4.2", "1.4.2 1.4.9", "1.5 1.4.1"),
        ("discovery-framework==1.*", "1.0 1.9", "2.0 0.9"),
        ("discovery-framework==1.0", "1.0 1 1.0.0", "1.0.1"),
        ("discovery-framework!=1.3", "1.2 1.3.1", "1.3 1.3.0"),
        ("discovery-framework!=1.3.*,>1", "1.2 1.4", "1.3 1.3.1 1.0"),
        ("discovery-framework<=1.3", "1.3 1.2", "1.3.1"),
        ("discovery-framework>=7; extra == 'test'", "1.0", ""),
        ("discovery-framework>=7; python_version < '3'", "1.0", ""),
        ("discovery-framework @ file:///somewhere", "1.0", ""),
        ("discovery-framework-more>=7", "1.0", ""),
        ("aiohttp>=7", "1.0", ""),
    ],
)
def test_the_versions_of_the_core_that_a_requirement_permits(requirement: str, versions: str, others: str) -> None:
    assert [each for each in versions.split() if unsupported([requirement], each)] == []
    assert [each for each in others.split() if not unsupported([requirement], each)] == []
