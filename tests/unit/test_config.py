"""Configuration: what may be written, and that every fault is named with its key, its place and the way out."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from discovery import ConfigError, Consumer, Inventory, PluginConfig, Provider
from discovery.daemon.config import load_settings, validate_options
from discovery.daemon.instances import build, load
from discovery.daemon.schema import json_schema
from discovery.daemon.settings import Overrides, ProviderSettings
from discovery.errors import PluginError
from discovery.hosting import loading as plugins


def settings_of(tmp_path: Path, text: str, **overrides: Any) -> Any:
    path = tmp_path / "discovery.toml"
    path.write_text(text)
    return load_settings(path, Overrides(**overrides))


def test_defaults_need_no_file() -> None:
    settings = load_settings(None, Overrides(plugins=("haproxy",)))
    assert str(settings.registry) == "etcd://127.0.0.1:2379"
    assert settings.admin == ("127.0.0.1", 9901)
    assert settings.admin_is_default
    assert settings.consumers["haproxy"].plugin == "haproxy"


def test_a_whole_file(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        """
        admin = "off"
        [registry]
        url = "etcds://10.0.0.1:2379,10.0.0.2:2379/prod"
        username = "reader"
        password_file = "/etc/discovery/password"
        ca = "/etc/discovery/ca.pem"
        [log]
        level = "debug"
        [consumers.edge]
        plugin = "haproxy"
        quiet_period = 0.5
        services.web = { bind = "0.0.0.0:80" }
        """,
    )
    assert str(settings.registry) == "etcds://reader@10.0.0.1:2379,10.0.0.2:2379/prod"
    assert dict(settings.registry.options) == {
        "ca": "/etc/discovery/ca.pem",
        "password_file": "/etc/discovery/password",
    }
    assert settings.admin is None
    assert settings.log.level == "debug"
    edge = settings.consumers["edge"]
    assert (edge.plugin, edge.quiet_period) == ("haproxy", 0.5)
    assert edge.options == {"services": {"web": {"bind": "0.0.0.0:80"}}}


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("haproxy.services.web.bind=127.0.0.1:80", {"services": {"web": {"bind": "127.0.0.1:80"}}}),
        ("haproxy.maxconn=100", {"maxconn": 100}),
        ("haproxy.check=true", {"check": True}),
        ('haproxy.bind=["a:1", "b:2"]', {"bind": ["a:1", "b:2"]}),
        ('haproxy.services."apache.service".bind=x', {"services": {"apache.service": {"bind": "x"}}}),
        ('haproxy."a=b"=c=d', {"a=b": "c=d"}),
        ("haproxy.empty=", {"empty": ""}),
        ("haproxy.since=2026-01-01", {"since": "2026-01-01"}),
        ("haproxy.text=1\nother = 2", {"text": "1\nother = 2"}),
    ],
)
def test_set(assignment: str, expected: dict[str, Any]) -> None:
    settings = load_settings(None, Overrides(plugins=("haproxy",), assignments=(assignment,)))
    assert settings.consumers["haproxy"].options == expected


def test_set_wins_over_the_file_key_by_key(tmp_path: Path) -> None:
    text = '[consumers.haproxy]\nplugin = "haproxy"\nservices.web = { bind = "a:1", mode = "tcp" }'
    settings = settings_of(tmp_path, text, assignments=("haproxy.services.web.bind=b:2",))
    assert settings.consumers["haproxy"].options == {"services": {"web": {"bind": "b:2", "mode": "tcp"}}}


@pytest.mark.parametrize(
    "assignment", ["", "haproxy", "haproxy=1", "=1", "haproxy.=1", "hap roxy.x=1", "haproxy.a\n.b=1"]
)
def test_set_that_is_no_assignment(assignment: str) -> None:
    with pytest.raises(ConfigError, match=r"INSTANCE\.KEY|no instance"):
        load_settings(None, Overrides(plugins=("haproxy",), assignments=(assignment,)))


def test_set_for_an_unknown_instance_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no instance 'haprxy'; there are: haproxy"):
        load_settings(None, Overrides(plugins=("haproxy",), assignments=("haprxy.x=1",)))


@given(st.text(max_size=30))
def test_set_never_fails_otherwise_than_by_saying_so(text: str) -> None:
    try:
        load_settings(None, Overrides(plugins=("haproxy",), assignments=(f"haproxy.{text}",)))
    except ConfigError as error:
        assert "--set" in str(error) or "command line" in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("admn = 'off'", "admn: unknown key; did you mean 'admin'?"),
        ("[registry]\nur = 'x'", "registry.ur: unknown key; did you mean 'url'?"),
        ("[registry]\nurl = 'localhost'", "'localhost' is not a URL"),
        ("[log]\nlevel = 'loud'", "log.level: "),
        ("[consumers.edge]\nbind = 1", "consumers.edge.plugin: is required"),
        ("[consumers.'a b']\nplugin = 'x'", "an instance's name"),
        ("consumers = 3", "consumers: must be a table"),
        ("admin = 'nowhere'", "admin: 'nowhere' is not HOST:PORT with a port from 1 to 65535"),
        ("[consumers", "is not valid TOML"),
    ],
)
def test_faults_name_the_place_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path, text)
    assert message in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="no-such.toml: cannot be read: No such file"):
        load_settings(Path("no-such.toml"))


class Service(PluginConfig):
    bind: str | list[str] | None = None
    mode: str = "http"


class Example(PluginConfig):
    services: dict[str, Service] = {}
    maxconn: int = 1


def options(**given: Any) -> Any:
    settings = load_settings(None, Overrides(plugins=("example",)))
    consumer = settings.consumers["example"]
    return type(consumer)("example", "example", 0, given, "edge.toml")


def test_a_plugins_options_are_validated_by_its_type() -> None:
    assert validate_options(options(services={"web": {"bind": "x"}}), Example).services["web"].bind == "x"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"services": {"web": {"bnd": 1}}}, "consumers.example.services.web.bnd: unknown key; did you mean 'bind'?"),
        ({"service": {}}, "consumers.example.service: unknown key; did you mean 'services'?"),
        ({"zzz": 1}, "example.zzz: unknown key; known here are: filter, maxconn, plugin, quiet_period, services"),
        ({"quiet_perio": 1}, "consumers.example.quiet_perio: unknown key; did you mean 'quiet_period'?"),
        ({"maxconn": "many"}, "consumers.example.maxconn: "),
        ({"services": {"a.b": {"mode": 1}}}, 'consumers.example.services."a.b".mode: '),
    ],
)
def test_a_plugins_faults_name_place_key_and_nearest(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_options(options(**given), Example)
    assert str(caught.value).startswith("edge.toml: ")
    assert message in str(caught.value)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        validate_options(options(maxconn="many", zzz=1), Example)
    assert len(str(caught.value).splitlines()) == 2


def test_the_schema_holds_the_core_and_every_plugin() -> None:
    schema = json_schema({"example": Example})
    (variant,) = schema["properties"]["consumers"]["additionalProperties"]["oneOf"]
    assert variant["properties"]["plugin"] == {"const": "example"}
    assert {"services", "maxconn", "quiet_period"} <= variant["properties"].keys()
    assert "consumers.example.Service" in schema["$defs"]


class Documented(Example):
    depth: int = 1
    """How deep
    it is."""
    maxconn: int = 2
    """How many."""
    height: int = Field(3, description="How high", alias="tall")
    """Another."""
    width: int = Field(4, alias="wide")
    """How wide."""


def test_docstrings_describe_the_fields_in_the_schema() -> None:
    class More(Documented):
        extra: Service = Service()
        """Further."""

    properties = More.model_json_schema()["properties"]
    described = {name: each.get("description") for name, each in properties.items()}
    assert described == {
        "services": None,
        "maxconn": "How many.",
        "depth": "How deep\nit is.",
        "tall": "How high",
        "wide": "How wide.",
        "extra": "Further.",
    }


def test_no_source_is_read_when_settings_are_declared() -> None:
    program = (
        "import linecache, discovery.daemon.config; print([file for file in linecache.cache if 'discovery' in file])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_schema_tells_a_plugins_two_roles_apart() -> None:
    class Other(PluginConfig):
        services: dict[str, int] = {}

    schema = json_schema({"example": Example}, {"example": Other})
    (consumer,) = schema["properties"]["consumers"]["additionalProperties"]["oneOf"]
    (provider,) = schema["properties"]["providers"]["additionalProperties"]["oneOf"]
    assert {"ttl", "owner", "services"} <= provider["properties"].keys()
    assert not {"ttl", "owner"} & consumer["properties"].keys()
    assert "maxconn" not in provider["properties"]


def test_a_providers_table(tmp_path: Path) -> None:
    text = """
        [consumers.edge]
        plugin = "haproxy"
        [providers.local]
        plugin = "apache"
        ttl = 30
        owner = "machine-1/web"
        names = ["web-*"]
        [providers.other]
        plugin = "apache"
        """
    settings = settings_of(tmp_path, text, assignments=("local.ttl=5", "edge.maxconn=3"))
    local, other = settings.providers["local"], settings.providers["other"]
    assert (local.plugin, local.ttl, local.owner, local.options) == ("apache", 5, "machine-1/web", {"names": ["web-*"]})
    assert (other.ttl, other.owner, other.options) == (10, None, {})
    assert settings.consumers["edge"].options == {"maxconn": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[providers.local]\nttl = 3", "providers.local.plugin: is required"),
        (
            "[providers.local]\nplugin = 'x'\nttl = 0.5",
            "providers.local.ttl: 0.5 is not a duration from 1s to 1h",
        ),
        ("[providers.local]\nplugin = 'x'\nttl = 3601", "providers.local.ttl: 3601 is not a duration from 1s to 1h"),
        ("[providers.local]\nplugin = 'x'\nowner = ''", "providers.local.owner: the owner is empty"),
        ("[providers.local]\nplugin = 'x'\nowner = \"a\\nb\"", "providers.local.owner: the owner has a control"),
        ("[providers.'a b']\nplugin = 'x'", "an instance's name"),
        ("providers = 3", "providers: must be a table"),
        ("[providers]\nlocal = 3", "providers.local: must be a table"),
        (
            "[consumers.edge]\nplugin = 'x'\n[providers.edge]\nplugin = 'y'",
            "providers.edge: there is a consumer of that name; choose another",
        ),
    ],
)
def test_faults_of_a_provider_name_the_place_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path, text)
    assert f"{tmp_path / 'discovery.toml'}: " in str(caught.value)
    assert message in str(caught.value)


def test_a_providers_options_fail_by_their_own_table() -> None:
    settings = ProviderSettings("local", "example", 10, None, {"tll": 3, "servics": {}}, "x.toml")
    with pytest.raises(ConfigError) as caught:
        validate_options(settings, Example)
    assert str(caught.value).splitlines() == [
        "x.toml: providers.local.tll: unknown key; did you mean 'ttl'?",
        "x.toml: providers.local.servics: unknown key; did you mean 'services'?",
    ]


class Nothing(Provider[Example]):
    Config = Example

    async def discover(self) -> Any:
        yield Inventory((), {})


class Idle(Consumer[Example]):
    Config = Example

    async def apply(self, update: Any) -> None:
        pass


@pytest.fixture
def three_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins `in`, `out` and `both`, and `broken`."""
    loaded = {
        "in": plugins.Plugin("in", providers={"in": Nothing}),
        "out": plugins.Plugin("out", consumers={"out": Idle}),
        "both": plugins.Plugin("both", consumers={"both": Idle}, providers={"both": Nothing}),
    }

    def load(name: str) -> plugins.Plugin:
        if name == "broken":
            raise PluginError("the plugin 'broken' cannot be loaded")
        if name not in loaded:
            raise ConfigError(f"there is no plugin {name!r}")
        return loaded[name]

    monkeypatch.setattr(plugins, "load", load)


@pytest.mark.usefixtures("three_plugins")
def test_a_plugin_on_the_command_line_is_run_as_what_it_is() -> None:
    overrides = Overrides(plugins=("in", "out", "broken"), assignments=("in.ttl=3", "in.maxconn=7", "out.maxconn=8"))
    instances = build(load_settings(None, overrides))
    provider = instances.providers["in"]
    assert (provider.provider, provider.ttl, provider.config) == (Nothing, 3, Example(maxconn=7))
    assert provider.owner == ""
    assert instances.consumers["out"].config == Example(maxconn=8)
    assert instances.broken == {"broken": "the plugin 'broken' cannot be loaded"}
    assert instances.usable == ("out", "in")


@pytest.mark.usefixtures("three_plugins")
def test_a_plugin_that_is_both_takes_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--plugin both: .* configure what you want in a file"):
        load_settings(None, Overrides(plugins=("both",)))
    settings = settings_of(tmp_path, '[providers.both]\nplugin = "both"', plugins=("both",))
    assert (list(settings.providers), list(settings.consumers)) == (["both"], [])


@pytest.mark.usefixtures("three_plugins")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[providers.local]\nplugin = 'out'", "the plugin 'out' is no provider; it provides consumer out"),
        ("[consumers.local]\nplugin = 'in'", "the plugin 'in' is no consumer; it provides provider in"),
        ("[providers.local]\nplugin = 'inn'", "there is no plugin 'inn'"),
        (
            "[providers.local]\nplugin = 'in'\nmaxcon = 1",
            "providers.local.maxcon: unknown key; did you mean 'maxconn'?",
        ),
        ("", "there is nothing to run"),
    ],
)
def test_what_cannot_be_built_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(settings_of(tmp_path, text))
    assert message in str(caught.value)


def test_a_file_without_an_instance_is_named(tmp_path: Path) -> None:
    path = tmp_path / "discovery.toml"
    path.write_text('[registry]\nurl = "etcd://127.0.0.1:2379"\n')
    with pytest.raises(ConfigError, match=rf"{path}: there is nothing to run: it has no \[consumers.NAME\]"):
        load(path, Overrides())
