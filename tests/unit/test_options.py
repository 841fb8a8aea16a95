"""One vocabulary: every duration, bind, rise, fall and weight of the core and the plugins takes the same forms."""

import datetime as dt
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from option_models import MODELS, fields_of, metadata
from option_tables import BINDS, DURATIONS, NOT_TAKEN, ROWS, WEB, WEIGHTS, WITH_SOCKETS, Option, V
from pydantic import BaseModel

from discovery.cli import group, main
from discovery.cli.app import app
from discovery.daemon.faults import validate
from discovery.daemon.settings import FileSettings
from discovery.errors import ConfigError
from discovery.fields import BindAddress, Duration, WholeNumber
from discovery.probes import CheckSettings
from discovery_docker.conventions import ServiceVariables
from discovery_haproxy.options.config import HAProxyConfig
from discovery_tcpproxy.config import TcpProxyConfig

COMMAND_DURATIONS = {
    "run --timeout", "services --timeout", "deregister --timeout", "config check --timeout", "stop --timeout",
    "register --timeout", "register --ttl", "register --check-interval", "register --check-timeout", "register --drain",
    "register-container --ttl", "explain --timeout", "wait --timeout", "top --interval", "fleet --timeout",
    "ambassador --hold", "ambassador --idle-timeout", "ambassador --drain",
    "forward --hold", "forward --idle-timeout", "forward --drain",
}  # fmt: skip
COMMAND_WEIGHTS = {"register --weight", "register-container --weight"}
LABELS = ("SERVICE_CHECK_INTERVAL", "SERVICE_CHECK_TIMEOUT")

GOOD_DURATIONS = {
    2: 2.0,
    1.5: 1.5,
    "2": 2.0,
    "1.5": 1.5,
    "1500ms": 1.5,
    "2s": 2.0,
    "1.5s": 1.5,
    "1m": 60.0,
    "1s500ms": 1.5,
}
BAD_DURATIONS = (
    "soon", "", "2 s", " 2", "2s\n", "-2s", -2, True, [], {}, "1s1", "2e0", "٢s", "1w", float("nan"), "9" * 30,
)  # fmt: skip
GOOD_ROWS = {1: 1, 3: 3, "3": 3, 1000: 1000}
BAD_ROWS = (0, -1, 1001, 1.5, True, "", "many", [], "1s")
GOOD_WEIGHTS = {0: 0, 1: 1, "3": 3, 256: 256}
BAD_WEIGHTS = (-1, 257, 1.5, True, "", "heavy", [], "1s")
GOOD_BINDS = {
    "127.0.0.1:8080": "127.0.0.1:8080", "0.0.0.0:080": "0.0.0.0:80", "*:80": "0.0.0.0:80", "[::1]:80": "[::1]:80",
    "[0::0]:80": "[::]:80",
}  # fmt: skip
BAD_BINDS = (
    ":8080", 8080, "8080", "", True, 1.5, "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:80x", "::1:80",
    "[127.0.0.1]:80", "[::1:80", "127.0.0.1:80\n", "unix:web.sock", "a b:80",
)  # fmt: skip
DATES: dict[object, str] = {
    dt.date(2020, 1, 1): "the date 2020-01-01",
    dt.time(1, 2): "the time of day 01:02:00",
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC): "the date and time 2020-01-01 00:00:00+00:00",
}
"""Values that TOML has besides text, numbers, booleans, lists and tables, and how a message names each."""
OTHERS: dict[str, Option] = {
    "check.status": (CheckSettings, {"status": V}),
    "haproxy.check.status": (HAProxyConfig, {"services": {"web": {"check": {"path": "/", "status": V}}}}),
    "haproxy.access_log": (HAProxyConfig, {"access_log": V}),
    "tcpproxy.listen.allow": (TcpProxyConfig, {"listen": {"web": {**WEB, "allow": [V]}}}),
    "tcpproxy.listen.accept_proxy": (TcpProxyConfig, {"listen": {"web": {**WEB, "accept_proxy": [V]}}}),
    "tcpproxy.listen.service": (TcpProxyConfig, {"listen": {"web": {**WEB, "service": V}}}),
    "tcpproxy.listen.targets": (TcpProxyConfig, {"listen": {"web": {**WEB, "targets": [V]}}}),
    "tcpproxy.listen.mode": (TcpProxyConfig, {"listen": {"web": {**WEB, "mode": V}}}),
}
FORMS = "write a number of seconds, or a time such as 500ms, 10s, 5m or 2h"


def put(table: Any, value: object) -> Any:
    """The table with the value in the place of `V`."""
    if isinstance(table, dict):
        return {key: put(item, value) for key, item in table.items()}
    if isinstance(table, list):
        return [put(item, value) for item in table]
    return value if table == V else table


def taken(option: Option, value: object) -> set[object]:
    """What the configuration has of an option with this value: every value in the place of `V`."""
    model, table = option
    return set(_values(validate(model, put(table, value), "discovery.toml"), table))


def _values(config: Any, table: Any) -> Iterator[object]:
    """The value of `config` where `table` has `V`; of a list the first, of a bind its address."""
    if table == V:
        config = config[0] if isinstance(config, tuple) else config
        config = getattr(config, "bind", (config,))[0] if hasattr(config, "hold") else config
        yield getattr(config, "address", config)
    elif isinstance(table, dict):
        config = config[0] if isinstance(config, tuple) else config
        for key, item in table.items():
            yield from _values(config[key] if isinstance(config, dict) else getattr(config, key), item)
    elif isinstance(table, list):
        yield from _values(config[0], table[0])


def refused(option: Option, value: object) -> str:
    """What a person is told of a wrong value."""
    model, table = option
    with pytest.raises(ConfigError) as caught:
        validate(model, put(table, value), "discovery.toml")
    return str(caught.value)


def key_of(name: str) -> str:
    """The part of an option's name that a message shows."""
    return name.rpartition(".")[2]


@pytest.mark.parametrize("name", DURATIONS)
def test_every_duration_takes_the_same_forms(name: str) -> None:
    for written, seconds in GOOD_DURATIONS.items():
        (value,) = taken(DURATIONS[name], written)
        assert Duration().parse(value) == seconds, written
    for written in BAD_DURATIONS:
        told = refused(DURATIONS[name], written)
        assert f"{key_of(name)}: " in told
        assert "is not a duration" in told
        assert FORMS in told
        assert "\n" not in told


@pytest.mark.parametrize("model", [model for model in MODELS.values() if model is not FileSettings])
def test_the_schema_of_every_duration_takes_the_good_forms(model: type[BaseModel]) -> None:
    schemas = [each for each in _schemas(model.model_json_schema()) if "10s" in each.get("examples", ())]
    assert schemas
    for schema in schemas:
        for written in filter(lambda form: isinstance(form, str), GOOD_DURATIONS):
            assert re.search(schema["pattern"], str(written))
        for written in ("soon", "", "2 s", "-2s", "1s1", "2e0"):
            assert not re.search(schema["pattern"], written)


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema with every schema within it."""
    if isinstance(schema, dict):
        yield schema
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _schemas(each)


@pytest.mark.parametrize("name", LABELS)
def test_every_duration_of_a_label_takes_the_same_forms(name: str) -> None:
    for written, seconds in GOOD_DURATIONS.items():
        check = ServiceVariables.read({name: str(written)}, {}).request(80).check
        assert seconds in (check.interval, check.timeout), written
    for written in filter(None, BAD_DURATIONS):
        (problem,) = ServiceVariables.read({name: str(written)}, {}).request(80).problems
        assert problem.startswith(f"{name}: ")
        assert FORMS in problem


@pytest.mark.parametrize(
    ("options", "good", "bad"), [(ROWS, GOOD_ROWS, BAD_ROWS), (WEIGHTS, GOOD_WEIGHTS, BAD_WEIGHTS)]
)
def test_every_rise_fall_and_weight_takes_the_same_forms(
    options: dict[str, Option], good: dict[object, int], bad: tuple[object, ...]
) -> None:
    for name, option in options.items():
        for written, number in good.items():
            assert taken(option, written) == {number}, (name, written)
        for written in bad:
            told = refused(option, written)
            assert f"{key_of(name)}: " in told
            assert f"is not a whole number from {min(good.values())} to {max(good.values())}" in told


@pytest.mark.parametrize("name", BINDS)
def test_every_bind_takes_the_same_forms(name: str) -> None:
    for written, address in GOOD_BINDS.items():
        assert taken(BINDS[name], written) == {address}
    for written in BAD_BINDS:
        told = refused(BINDS[name], written)
        assert name.partition(".")[2].partition(".")[0] in told
        assert "write" in told or "a bind is an address such as" in told
        assert "\n" not in told
    sockets = {"unix:/run/web.sock", "/run/web.sock"}
    if name in WITH_SOCKETS:
        assert {value for each in sockets for value in taken(BINDS[name], each)} <= sockets
    else:
        assert all("write" in refused(BINDS[name], each) for each in sockets)


@pytest.mark.parametrize("name", DURATIONS | ROWS | WEIGHTS | BINDS | OTHERS)
def test_a_date_is_refused_in_the_words_of_toml(name: str) -> None:
    option = (DURATIONS | ROWS | WEIGHTS | BINDS | OTHERS)[name]
    for value, words in DATES.items():
        for written in (value, [value], {"x": value}):
            assert "datetime" not in refused(option, written)
        told = refused(option, value)
        assert words in told or f"(got {value})" in told
        assert told.count(str(value)) == 1


@pytest.mark.parametrize("name", BINDS)
def test_a_bare_port_is_refused_with_the_explicit_forms(name: str) -> None:
    told = refused(BINDS[name], ":8080")
    assert "write 127.0.0.1:8080 for this machine alone, 0.0.0.0:8080 for every IPv4 address, or [::]:8080" in told


@pytest.mark.parametrize(("kind", "table"), [(Duration, DURATIONS), (BindAddress, BINDS)])
def test_the_table_has_every_option_of_a_kind(kind: type, table: dict[str, Option]) -> None:
    found = {name.strip(".") for prefix, model in MODELS.items() for name in fields_of(model, prefix, kind)}
    short = {name.replace("services.check", "check") for name in found}
    assert short - NOT_TAKEN <= table.keys()


def test_the_table_has_every_whole_number_that_counts_outcomes_or_weighs() -> None:
    found = {name for prefix, model in MODELS.items() for name in fields_of(model, prefix, WholeNumber)}
    counting = {name.replace("services.check", "check") for name in found if key_of(name) in ("rise", "fall", "weight")}
    assert counting - NOT_TAKEN == {*ROWS, *WEIGHTS}


def test_the_tables_have_every_plugin() -> None:
    plugins = Path(__file__).parents[2] / "plugins"
    projects = [tomllib.loads(path.read_text())["project"] for path in sorted(plugins.glob("*/pyproject.toml"))]
    assert projects
    assert {name for each in projects for name in each["entry-points"]["discovery"]} <= MODELS.keys()


def test_no_option_is_a_bare_number_of_seconds() -> None:
    def bare(model: type[BaseModel]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            found = list(metadata((field.annotation, *field.metadata)))
            if float in found and not any(isinstance(each, Duration) for each in found):
                yield name
            for each in found:
                if isinstance(each, type) and issubclass(each, BaseModel):
                    yield from bare(each)

    assert [name for model in MODELS.values() for name in bare(model)] == []


def commands() -> Iterator[tuple[str, Callable[[str], object], Any]]:
    """Every option of every command, as `register --ttl`: what it makes of a text, and its name for values."""
    root: Any = typer.main.get_command(app)
    context: Any = typer.Context(root)
    for name in root.list_commands(context):
        elsewhere = name in group.installed() and name not in group.OWN
        command: Any = group.load(name) if elsewhere else root.get_command(context, name)
        below = command.commands.items() if hasattr(command, "commands") else [(None, command)]
        for child, each in below:
            for option in each.params:
                if option.opts[0].startswith("-") and option.callback is None:
                    words = filter(None, (name, child, max(option.opts, key=len)))
                    yield " ".join(words), partial(option.process_value, typer.Context(each)), option.metavar


def test_every_duration_of_a_command_takes_the_same_forms() -> None:
    found = {name: reads for name, reads, metavar in commands() if metavar == "DURATION"}
    assert found.keys() == COMMAND_DURATIONS
    for name, reads in found.items():
        _takes(name, reads, GOOD_DURATIONS, filter(None, BAD_DURATIONS), FORMS)


def test_every_weight_of_a_command_takes_the_same_forms() -> None:
    found = {name: reads for name, reads, _ in commands() if name.endswith("weight")}
    assert found.keys() == COMMAND_WEIGHTS
    for name, reads in found.items():
        _takes(name, reads, GOOD_WEIGHTS, BAD_WEIGHTS, "is not a whole number from 0 to 256")


def test_no_option_of_a_command_is_a_bare_number_of_seconds() -> None:
    bare = []
    for name, reads, metavar in commands():
        with suppress(Exception):  # what does not take a text such as this is no such option
            if isinstance(reads("1.5"), float) and metavar != "DURATION":
                bare.append(name)
    assert bare == []


def _takes(name: str, reads: Callable[[str], object], good: dict[Any, Any], bad: Iterable[Any], told: str) -> None:
    for written, value in good.items():
        assert reads(str(written)) == value, (name, written)
    for written in bad:
        with pytest.raises(typer.BadParameter) as caught:
            reads(str(written))
        assert told in str(caught.value), name


@pytest.mark.parametrize(
    "arguments", [["forward", "10.0.0.1:1", "--listen"], ["connections", "--admin"], ["run", "--admin"]], ids=" ".join
)
def test_every_bind_of_a_command_refuses_the_same_forms(
    arguments: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISCOVERY_CONFIG", "")
    for written in BAD_BINDS:
        assert main([*arguments, str(written)]) == 2, written
        assert "write" in capfd.readouterr().err, written
