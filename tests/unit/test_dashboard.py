"""`deploy/monitoring/dashboard.json`, read by the models that Grafana generates of its own schema."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from making import require_module

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy/monitoring/dashboard.json").read_text())
PANELS = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def lost(one: Any, other: Any, path: str = "") -> list[str]:
    """The paths of what is in `one` and not, or another, in `other`."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            each
            for key, value in one.items()
            for each in (lost(value, other[key], f"{path}/{key}") if key in other else [f"{path}/{key}"])
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [each for at, pair in enumerate(zip(one, other, strict=True)) for each in lost(*pair, f"{path}/{at}")]
    return [] if one == other else [path]


def read_again(dashboard: dict[str, Any]) -> Any:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    return json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))


def test_grafana_knows_each_key() -> None:
    """What its models do not know is lost when they read the dashboard and write it."""
    require_module("grafana_foundation_sdk")
    # Grafana writes the definition of a variable, and shows it in its list of variables; its schema lacks it.
    assert [each for each in lost(DASHBOARD, read_again(DASHBOARD)) if not each.endswith("/definition")] == []
    wrong = json.loads(json.dumps(DASHBOARD))
    panel = next(each for each in wrong["panels"] if each["type"] == "timeseries")
    panel["options"]["nonsense"] = panel["fieldConfig"]["defaults"]["nonsense"] = panel["targets"][0]["nonsense"] = 1
    assert sum(each.endswith("nonsense") for each in lost(wrong, read_again(wrong))) == 3


def test_the_data_source_is_chosen_by_who_looks() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    source = variables.pop("datasource")
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert variables.keys() == {"job", "instance", "consumer"}
    for each in variables.values():
        assert each["datasource"] == SOURCE
        assert each["refresh"] == 2, "read again when the time range changes"
        assert each["multi"] is each["includeAll"] is True
        assert each["allValue"] == ".+"
    for panel in PANELS:
        assert panel["datasource"] == SOURCE, panel["title"]
        assert all(target["datasource"] == SOURCE for target in panel["targets"]), panel["title"]
    assert re.fullmatch(r"[a-z-]{1,40}", DASHBOARD["uid"])
    assert len({each["id"] for each in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda each: str(each["title"]))
def test_a_panel_says_what_it_shows_of_which_daemons(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        for selector in re.findall(r"discovery_\w+\{([^}]*)\}", target["expr"]):
            assert 'job=~"$job", instance=~"$instance"' in selector
        assert not re.search(r"discovery_\w+(?![\w{])", target["expr"]), "without a selector"
        assert not re.search(r"\[(?!\$__rate_interval\])", target["expr"])
        counters = re.findall(r"(\w+)\(discovery_\w+_(?:total|bucket|sum|count)\{", target["expr"])
        assert len(counters) == len(re.findall(r"_(?:total|bucket|sum|count)\{", target["expr"]))
        assert set(counters) <= {"rate", "increase"}
