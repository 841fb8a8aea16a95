"""`deploy/monitoring`: alert rules and a dashboard that ask for what a real daemon serves, in a real Prometheus."""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from daemons import Daemon, Starter

from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = pytest.mark.warm

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
PLUGIN = """
import asyncio
from discovery import Backend, Candidate, Consumer, Health, Inventory, PluginConfig, Provider, hookimpl

class Options(PluginConfig):
    pass

class Told(Consumer[Options]):
    Config = Options
    verify_seconds = 0.001

    def apply(self, update):
        pass

    def health(self):
        return Health(down={"web/a": "refused"})

class Finds(Provider[Options]):
    Config = Options

    async def discover(self):
        yield Inventory([Candidate(Backend("found", "b", "127.0.0.1", 1002))])
        await asyncio.Event().wait()

@hookimpl
def discovery_register_consumers(register):
    register("it", Told)

@hookimpl
def discovery_register_providers(register):
    register("it", Finds)
"""


def rules() -> list[dict[str, str]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return list(group["rules"])


def queries() -> dict[str, str]:
    """Each query of the dashboard by a name, with every variable at its first value."""
    return {name: _valued(target["expr"]) for name, target in _targets().items()}


def _targets() -> dict[str, dict[str, str]]:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return {f"{panel['title']} {it['refId']}": it for panel in panels for it in panel.get("targets", ())}


def _valued(query: str) -> str:
    values = {"__rate_interval": "1m"} | {each["name"]: each.get("allValue", "") for each in _variables()}
    return re.sub(r"\$(\w+)", lambda name: values[name[1]], query)


def _variables() -> list[dict[str, Any]]:
    return list(json.loads((MONITORING / "dashboard.json").read_text())["templating"]["list"])


def metrics_named_in(text: str) -> set[str]:
    return set(re.findall(r"\bdiscovery_\w+", text))


@pytest.fixture
def daemon(tmp_path: Path, start_daemon: Starter) -> Daemon:
    """A daemon with a consumer that finds a backend down, and a provider."""
    (tmp_path / "records/web").mkdir(parents=True)
    (tmp_path / "records/web/a").write_text("127.0.0.1:1001")
    plugin, config = tmp_path / "it.py", tmp_path / "discovery.toml"
    plugin.write_text(PLUGIN)
    config.write_text(f'consumers.one.plugin = "{plugin}"\nproviders.two.plugin = "{plugin}"\n')
    daemon = start_daemon("--registry", (tmp_path / "records").as_uri(), "--config", str(config))
    eventually_sync(daemon.is_ready, timeout=60)
    eventually_sync(lambda: "down_backends{" in daemon.get("/metrics")[1], timeout=60)
    return daemon


@pytest.mark.parametrize("command", [("check", "alerts.yaml"), ("test", "alerts_test.yaml")], ids=lambda each: each[0])
def test_the_alert_rules_are_valid_and_fire_when_they_should(command: tuple[str, str]) -> None:
    verb, file = command
    promtool = require_program("promtool")
    done = subprocess.run([promtool, verb, "rules", file], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_and_says_what_to_do() -> None:
    tests = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    fired = {it["alertname"] for each in tests for it in each["alert_rule_test"] if it.get("exp_alerts")}
    assert fired == {each["alert"] for each in rules()}
    for each in rules():
        assert each["labels"]["severity"] in ("critical", "warning")  # type: ignore[index]
        assert each["annotations"].keys() == {"summary", "description"}  # type: ignore[attr-defined]


def test_a_daemon_has_each_metric_that_a_rule_or_panel_names(daemon: Daemon) -> None:
    lines = daemon.get("/metrics")[1].splitlines()
    there = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    named = metrics_named_in(json.dumps([each["expr"] for each in rules()]) + json.dumps(queries()))
    assert len(named) > 15
    assert named <= there
    variables = metrics_named_in(json.dumps(_variables()))
    assert variables <= there


def test_the_dashboard_lays_no_panel_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


@pytest.fixture
def prometheus(tmp_path: Path, daemon: Daemon) -> Iterator[str]:
    """The URL of a Prometheus that scrapes the daemon as README.md says, and has the rules."""
    program, port = str(require_program("prometheus")), free_port()
    jobs = [{"job_name": "discovery", "static_configs": [{"targets": [daemon.admin]}]}]
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(MONITORING / "alerts.yaml")],
        "scrape_configs": jobs,
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    options = {
        "config.file": tmp_path / "prometheus.yml",
        "storage.tsdb.path": tmp_path / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    command = [program, *(f"--{name}={value}" for name, value in options.items())]
    with (tmp_path / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield f"http://127.0.0.1:{port}/api/v1"
        finally:
            process.kill()


def answer(url: str, **query: str) -> Any:
    """What Prometheus answers, or None while it does not yet."""
    try:
        with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", timeout=within(10)) as response:
            return json.load(response)["data"]
    except OSError:
        return None


def test_a_prometheus_evaluates_each_rule_and_has_data_for_each_panel(prometheus: str) -> None:
    def healths() -> set[str]:
        told = answer(f"{prometheus}/rules") or {"groups": []}
        return {rule["health"] for group in told["groups"] for rule in group["rules"]}

    def found(query: str) -> list[dict[str, Any]]:
        return list((answer(f"{prometheus}/query", query=query) or {}).get("result", ()))

    eventually_sync(lambda: healths() == {"ok"}, timeout=60)
    for name, query in queries().items():
        # Each selector as well: a sum with "or vector(0)" has a result without any series.
        for each in (*re.findall(r"discovery_\w+\{[^}]*\}", query), query):
            eventually_sync(lambda each=each: bool(found(each)), f"{name}: {each}")
        labels = re.findall(r"\{\{(\w+)\}\}", _targets()[name].get("legendFormat", ""))
        assert all(label in each["metric"] for label in labels for each in found(query)), name
    for variable in _variables()[1:]:
        selector, label = re.findall(r"label_values\((.*), (\w+)\)", _valued(variable["query"]["query"]))[0]
        assert answer(f"{prometheus}/label/{label}/values", **{"match[]": selector}), variable["name"]
    alerts = answer(f"{prometheus}/alerts")["alerts"]
    assert {"DiscoveryBackendsDown", "DiscoveryAllBackendsDown"} <= {each["labels"]["alertname"] for each in alerts}
