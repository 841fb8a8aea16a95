"""`run --dry-run` as JSON, and what `--dry-run` and `--once` say of the registry that they use."""

import json
from pathlib import Path
from typing import Any

import pytest

from discovery.cli import main

CONSUMER = """
from pathlib import Path
from discovery import Consumer, PluginConfig

class Options(PluginConfig):
    path: Path

class Addresses(Consumer[Options]):
    Config = Options
    resident = False

    def text(self, update):
        return " ".join(each.address for each in update.snapshot.backends())

    def apply(self, update):
        self.config.path.write_text(self.text(update))

    def preview(self, update):
        return f"+{self.text(update)}\\n"
"""
PROVIDER = """
from discovery import Backend, Candidate, Inventory, Provider

class Fixed(Provider):
    async def discover(self):
        yield Inventory((Candidate(Backend("web", "x", "10.0.0.9", 81)),), {"thing": "no port"}, {"other": "a rule"})
"""
FAULTY = """
from discovery import Consumer

class Faulty(Consumer):
    def apply(self, update):
        pass

    def preview(self, update):
        raise OSError("not today")
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with a consumer, a provider, and a consumer whose preview fails."""
    for name in ("DISCOVERY_REGISTRY", "DISCOVERY_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, source in (("addresses", CONSUMER), ("fixed", PROVIDER), ("faulty", FAULTY)):
        (tmp_path / f"{name}.py").write_text(source)
    for registry, address in (("registry", "10.0.0.1:80"), ("other", "10.0.0.2:80")):
        (tmp_path / registry / "web").mkdir(parents=True)
        (tmp_path / registry / "web/a").write_text(address)
    path = tmp_path / "discovery.toml"
    path.write_text(
        f'registry = {{ url = "file://{tmp_path}/registry" }}\nlog.level = "error"\n'
        f'run_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n'
        f'[consumers.addresses]\nplugin = "./addresses.py"\npath = "{tmp_path}/out"\nfilter = {{ services = "wbe*" }}\n'
    )
    return path


def dry_run(config: Path, capfd: pytest.CaptureFixture[str], code: int) -> Any:
    assert main(["run", "--config", str(config), "--dry-run", "--json"]) == code
    return json.loads(capfd.readouterr().out)


def test_a_dry_run_as_json_has_everything_that_its_text_has(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with config.open("a") as more:
        more.write('[providers.fixed]\nplugin = "./fixed.py"\n[consumers.faulty]\nplugin = "./faulty.py"\n')
        more.write('[consumers.broken]\nplugin = "./broken.py"\n')
    (tmp_path / "broken.py").write_text("def")
    report = dry_run(config, capfd, 1)
    assert report.pop("failures").keys() == {"faulty", "broken"}
    (unchecked,) = report.pop("unchecked")
    assert unchecked == "consumers.addresses: filter: the registry has no service 'wbe*'"
    (candidate,) = report["providers"]["fixed"].pop("candidates")
    assert (candidate["id"], candidate["host"], candidate["registered"]) == ("x", "10.0.0.9", True)
    assert report == {
        "registry": f"file://{tmp_path}/registry",
        "revision": 1,
        "consumers": {"addresses": {"diff": "+\n"}},
        "providers": {"fixed": {"problems": {"thing": "no port"}, "skipped": {"other": "a rule"}}},
        "faults": [],
    }
    assert not (tmp_path / "out").exists()


def test_the_faults_of_a_configuration_are_json_too(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config.write_text('registry = { url = "nonsense" }\n[consumers.addresses]\nplugin = "./addresses.py"\n')
    report = dry_run(config, capfd, 2)
    assert report["registry"] is None
    assert len(report["faults"]) == 2


def test_json_without_a_dry_run_is_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--json", "--plugin", "haproxy"]) == 2
    assert "--json: `discovery run` prints JSON with --dry-run alone" in capfd.readouterr().err


@pytest.mark.parametrize("mode", ["--once", "--dry-run"])
def test_a_variable_in_place_of_the_file_is_told_at_every_level_of_the_log(
    mode: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISCOVERY_REGISTRY", f"file://{tmp_path}/other")
    assert main(["run", "--config", str(config), mode]) == 0
    told = f"DISCOVERY_REGISTRY (file://{tmp_path}/other) takes the place of 'registry' in the configuration file"
    assert told in capfd.readouterr().err
    monkeypatch.setenv("DISCOVERY_REGISTRY", f"file://{tmp_path}/registry")
    assert main(["run", "--config", str(config), mode]) == 0
    assert "takes the place" not in capfd.readouterr().err
