"""What plugins tell beside their work: degraded health, and the metrics, details and requests of providers."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import providers
import pytest
import structlog
from consumers import at, instance, recorder, running
from structlog.testing import capture_logs
from third_party import install

from discovery import Context, Health, Inventory, PluginConfig, Sample, Update, diff
from discovery.admin.metrics import metrics
from discovery.admin.status import DaemonStatus
from discovery.consuming.runner import ConsumerStatus
from discovery.daemon.config import parse_settings
from discovery.daemon.instances import build
from discovery.daemon.schema import json_schema
from discovery.daemon.settings import Overrides
from discovery.errors import ConfigError, DiscoveryError
from discovery.hosting import loading
from discovery.hosting.isolation import Timing
from discovery.registry import RegistryURL
from discovery.system.either import completed
from discovery.testing import backend, eventually_sync, snapshot, within


@pytest.mark.parametrize(
    ("health", "state", "problem", "degraded"),
    [
        (Health(), "ok", None, None),
        (Health(detail="all is well"), "ok", None, None),
        (Health(degraded=True), "degraded", None, "degraded"),
        (Health(detail="slow", degraded=True), "degraded", None, "slow"),
        (Health(problems={"service web": "no port"}), "degraded", None, "service web: no port"),
        (Health(detail="1 of 2", problems={"service web": "no port"}), "degraded", None, "1 of 2"),
        (Health(ok=False, detail="dead"), "failing", "dead", None),
        (Health(ok=False, detail="dead", problems={"service web": "no port"}), "failing", "dead", None),
    ],
)
def test_a_degraded_instance_is_shown_and_well(
    health: Health, state: str, problem: str | None, degraded: str | None
) -> None:
    status = ConsumerStatus("it", "test", applied_revision=1, health=health)
    assert (status.state, status.problem, status.degraded) == (state, problem, degraded)
    daemon = DaemonStatus("memory://", consumers=(status,))
    assert daemon.degraded == ({"it": degraded} if degraded else {})
    assert daemon.waiting_for == []
    shown = {metric.name: metric.samples[0].value for metric in metrics(daemon) if metric.samples}
    assert shown["discovery_consumer_healthy"] == (problem is None)
    assert shown["discovery_consumer_degraded"] == (degraded is not None)
    assert shown["discovery_consumer_problems"] == len(health.problems)


def test_a_service_that_is_watched_has_a_figure_also_while_none_of_its_backends_is_down() -> None:
    health = Health(down={"web/a": "refused", "web/b": "refused"}, watched=frozenset({"web", "db"}))
    daemon = DaemonStatus("memory://", consumers=(ConsumerStatus("it", "test", health=health),))
    (down,) = (each for each in metrics(daemon) if each.name == "discovery_consumer_down_backends")
    assert {each.labels["service"]: each.value for each in down.samples} == {"web": 2, "db": 0}


def test_problems_are_logged_once_and_when_they_end(tmp_path: Path) -> None:
    now: list[Any] = [{"service web": "no port"}]
    asked: list[int] = []

    async def health(self: Any) -> Health:
        asked.append(1)
        return Health(problems=now[0])

    def asked_again() -> bool:
        return len(asked) > 3

    timing = Timing(health_every=0.01)
    with capture_logs() as logs, running(instance(recorder(health=health)), tmp_path, timing) as runner:
        eventually_sync(lambda: runner.status.degraded == "service web: no port")
        asked.clear()
        eventually_sync(asked_again)
        now[0] = {}
        eventually_sync(lambda: runner.status.state == "ok")
        now[0] = "rubbish"
        eventually_sync(lambda: runner.status.state == "failing")
    told = [(each["event"], each["what"]) for each in logs if "what" in each]
    assert told == [("there is a problem", "service web"), ("no longer a problem", "service web")]


def test_a_provider_has_metrics_and_details(tmp_path: Path) -> None:
    def own(self: Any) -> Iterator[Sample]:
        yield Sample("found", 3, {"place": "here"})
        yield Sample("wrong", 3, {"provider": "me"})

    def inspect(self: Any) -> Mapping[str, Any]:
        return {"tag": self.config.tag}

    provider = providers.finder(providers.found(80), metrics=own, inspect=inspect)
    with providers.running(providers.instance(provider, "x"), tmp_path) as it:
        it.publishes(80)
        (sample,) = asyncio.run(it.runner.samples(within(5)))
        assert (sample.name, sample.labels) == ("found", {"place": "here"})
        assert [each["figure"] for each in it.logged("a figure cannot be shown")] == ["wrong"]
        assert asyncio.run(it.runner.inspect(within(5))) == {"tag": "x"}
        running_status: Any = SimpleNamespace(runner=it.runner.status, registered=(), problem=None)
        status = DaemonStatus("memory://", providers=(running_status,))
        (metric,) = (each for each in metrics(status, {"it": (sample,)}) if each.name == "discovery_test_found")
        assert metric.samples[0].labels == {"provider": "it", "place": "here"}
    with pytest.raises(DiscoveryError):
        asyncio.run(it.runner.inspect(within(5)))


def test_a_provider_adopts_a_configuration(tmp_path: Path) -> None:
    def reconfigure(self: Any, config: Any) -> bool:
        self.world.events.append(f"reconfigure {config.tag}")
        self.config = config
        return bool(config.tag != "no")

    async def discover(self: Any) -> AsyncGenerator[Inventory, None]:
        self.world.events.append(f"discover {self.config.tag}")
        yield providers.found(len(self.config.tag))
        await asyncio.Event().wait()

    provider = providers.finder(None, reconfigure=reconfigure, discover=discover)
    with providers.running(providers.instance(provider, "a"), tmp_path) as it:
        it.publishes(1)
        it.runner.reconfigure(providers.instance(provider, "bb"))
        it.publishes(2)
        it.runner.reconfigure(providers.instance(provider, "no"))
        eventually_sync(lambda: provider.world.events[-1] == "discover no")
    adopted = ["setup a", "discover a", "reconfigure bb", "discover bb"]
    assert provider.world.events == [
        *adopted,
        "reconfigure no",
        "teardown no",
        "setup no",
        "discover no",
        "teardown no",
    ]


@pytest.mark.parametrize("form", ["plain", "coroutine"])
def test_a_provider_asks_for_another_discovery(tmp_path: Path, form: str) -> None:
    contexts: list[Context] = []
    fails = threading.Event()

    def setup(self: Any) -> None:
        contexts.append(self.context)

    async def discover(self: Any) -> AsyncGenerator[Inventory, None]:
        self.world.events.append("discover")
        if fails.is_set():
            raise OSError("lost")
        yield providers.found(80 + self.world.events.count("discover"))
        await asyncio.Event().wait()

    def plainly(self: Any) -> Iterator[Inventory]:
        self.world.events.append("discover")
        if fails.is_set():
            raise OSError("lost")
        while True:
            yield providers.found(80 + self.world.events.count("discover"))
            threading.Event().wait(0.01)

    chosen = discover if form == "coroutine" else plainly
    provider = providers.finder(None, setup=setup, discover=chosen)
    with providers.running(providers.instance(provider), tmp_path) as it:
        it.publishes(81)
        contexts[0].request_discovery()
        it.publishes(82)
        fails.set()
        contexts[0].request_discovery()
        eventually_sync(lambda: it.runner.status.error == "OSError: lost")
        fails.clear()
        contexts[0].request_discovery()
        eventually_sync(lambda: it.runner.status.error is None)
    assert len(contexts) == 1


def test_a_discovery_that_asks_for_another_each_time_is_granted_ever_more_seldom(tmp_path: Path) -> None:
    begun: list[float] = []

    async def discover(self: Any) -> AsyncGenerator[Inventory, None]:
        begun.append(time.monotonic())
        self.context.request_discovery()
        yield providers.found(81)
        await asyncio.Event().wait()

    provider = providers.finder(None, discover=discover)
    with providers.running(providers.instance(provider), tmp_path) as it:
        it.publishes(81)
        eventually_sync(lambda: len(begun) >= 6, "the discoveries to go on")
        assert begun[5] - begun[0] > 0.2, "pauses of at least 16, 32, 64 and 128 ms"


OBSERVER = """
from discovery import PluginConfig, hookimpl

told = []

class Options(PluginConfig):
    tag: str

@hookimpl
def discovery_observer_config():
    return Options

@hookimpl
def discovery_backends_changed(changes, options, name, log, is_first):
    log.info("observed", tag=options.tag)
    told.append((name, is_first, len(changes.added)))
"""
REGISTRY = """
from discovery import PluginConfig, hookimpl
from discovery.registry.memory import MemoryRegistry

class Options(PluginConfig):
    db: int
    prefix: str = ""

class Made(MemoryRegistry):
    def __init__(self, url, options):
        super().__init__()
        self.given = url, options

made = []

def make(url, options):
    made.append((str(url), options))
    return MemoryRegistry()

@hookimpl
def discovery_register_registries(register):
    register("optional", make, Options)
"""


async def test_an_observer_has_options_and_learns_what_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "observing", OBSERVER)
    monkeypatch.syspath_prepend(str(tmp_path))
    tables = {"consumers": {"it": {"plugin": "observing", "tag": "x", "filter": {"services": "web"}}}}
    made = build(parse_settings(tables, Overrides())).consumers["it"]
    observer = made.consumer(made.config, Context("it", tmp_path, structlog.get_logger()))
    before, after = snapshot(backend(), revision=1), snapshot(backend(), backend(port=81), revision=2)
    with capture_logs() as logs:
        await completed(observer.apply(Update(before, None, diff(None, before))))
        await completed(observer.apply(Update(after, before, diff(before, after))))
    import observing

    assert observing.told == [("it", True, 1), ("it", False, 1)]
    assert [each["tag"] for each in logs] == ["x", "x"]
    with pytest.raises(ConfigError, match=r"consumers\.it\.tag: is required"):
        build(parse_settings({"consumers": {"it": {"plugin": "observing"}}}, Overrides()))


async def test_a_registry_of_a_plugin_has_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "optional", REGISTRY)
    monkeypatch.syspath_prepend(str(tmp_path))
    table = {"url": "optional://host", "username": "me", "db": 3}
    first = parse_settings({"registry": table}, Overrides()).registry
    assert first == parse_settings({"registry": dict(table)}, Overrides()).registry
    assert first != parse_settings({"registry": {**table, "db": 4}}, Overrides()).registry
    registry = loading.open_registry(first)
    await registry.close()
    import optional

    ((url, options),) = optional.made
    assert (url, options) == ("optional://me@host", optional.Options(db=3))
    for wrong, told in (
        ({"db": "x"}, r"registry\.db: must be a whole number"),
        ({}, r"registry\.db: is required"),
        ({"db": 3, "prefi": "x"}, r"registry\.prefi: unknown key; did you mean 'prefix'"),
        ({"db": 3, "usernam": "x"}, r"registry\.usernam: unknown key; did you mean 'username'"),
    ):
        with pytest.raises(ConfigError, match=told):
            parse_settings({"registry": {"url": "optional://host", **wrong}}, Overrides())
    with pytest.raises(ConfigError, match=r"registry\.db: unknown key"):
        parse_settings({"registry": {"url": "etcd://host", "db": 3}}, Overrides())
    with pytest.raises(ConfigError, match=r"the table \[registry\] of a configuration has to have db"):
        loading.open_registry(RegistryURL.parse("optional://host"))


class Tuning(PluginConfig):
    depth: int = 0


class WithTable(PluginConfig):
    tuning: Tuning = Tuning()


def references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (value for key, value in schema.items() if key == "$ref")
        yield from (each for value in schema.values() for each in references(value))
    elif isinstance(schema, list):
        yield from (each for value in schema for each in references(value))


def test_the_schema_of_the_file_has_every_type_that_it_refers_to() -> None:
    schema = json_schema({"x": WithTable}, {"y": WithTable}, {"z": WithTable})
    found = set(references(schema))
    assert {"#/$defs/consumers.Filter", "#/$defs/consumers.x.Tuning", "#/$defs/registry.z.Tuning"} <= found
    assert found <= {f"#/$defs/{name}" for name in schema["$defs"]}
    assert "tuning" in schema["$defs"]["RegistrySettings"]["properties"]
    (variant,) = schema["properties"]["consumers"]["additionalProperties"]["oneOf"]
    assert {"plugin", "quiet_period", "filter", "tuning"} <= variant["properties"].keys()


def test_an_option_of_a_registry_may_not_be_one_of_the_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "colliding", REGISTRY.replace("prefix", "username"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DiscoveryError, match=r"the core reads 'username' of the table \[registry\] itself"):
        loading.load("colliding")


def test_a_snapshot_stays_as_it_is(tmp_path: Path) -> None:
    """Without a filter a consumer is given the very snapshot of the core, which all consumers share."""
    consumer = recorder()
    whole = at(1, 80)
    with running(instance(consumer), tmp_path) as runner:
        runner.offer(whole)
        eventually_sync(lambda: runner.status.applied_revision == 1)
    assert consumer.updates[0].snapshot is whole
