"""Consumers' own figures: shown by the admin endpoint, and what is wrong with one costs that one alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric, exposition
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from discovery.admin.metrics import metrics
from discovery.admin.status import DaemonStatus
from discovery.consuming.runner import ConsumerStatus
from discovery.hosting.figures import valid_samples
from discovery.plugin import Sample


def shown(own: dict[str, list[Any]], plugin: str = "proxy") -> dict[str, list[tuple[dict[str, str], float]]]:
    """What a Prometheus reads: labels and value of each sample of the plugins', by its name."""
    status = DaemonStatus("memory:", consumers=tuple(ConsumerStatus(name, plugin) for name in own))

    class Once(Collector):
        def collect(self) -> list[Metric]:
            return list(metrics(status, {name: valid_samples(samples)[0] for name, samples in own.items()}))

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    families = list(text_string_to_metric_families(exposition.generate_latest(registry).decode()))
    names = [f"{family.name}_total" if family.type == "counter" else family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        for each in family.samples:
            found.setdefault(each.name, []).append((dict(each.labels), each.value))
    core = {sample.name for metric in metrics(status) for sample in metric.samples}
    return {name: samples for name, samples in found.items() if name not in core}


def test_a_figure_has_the_plugin_in_its_name_and_the_instance_as_a_label() -> None:
    own = {
        "edge": [Sample("connections", 3, {"listener": 'we"b\n'}), Sample("open", 1.5, kind="gauge")],
        "back": [Sample("connections", 4, {"listener": "db"})],
    }
    assert shown(own) == {
        "discovery_proxy_connections_total": [
            ({"consumer": "edge", "listener": 'we"b\n'}, 3),
            ({"consumer": "back", "listener": "db"}, 4),
        ],
        "discovery_proxy_open": [({"consumer": "edge"}, 1.5)],
    }


def test_a_counter_gets_its_suffix_once() -> None:
    assert list(shown({"edge": [Sample("connections_total", 1)]})) == ["discovery_proxy_connections_total"]


def test_a_plugin_may_have_a_name_that_a_metric_may_not() -> None:
    assert list(shown({"edge": [Sample("open", 1, kind="gauge")]}, plugin="my-tcp.v2")) == ["discovery_my_tcp_v2_open"]


@pytest.mark.parametrize(
    "wrong",
    [
        Sample("with-dash", 1),
        Sample("", 1),
        Sample("1st", 1),
        Sample("naïve", 1),
        Sample("label", 1, {"with-dash": ""}),
        Sample("label", 1, {"__name__": "x"}),
        Sample("label", 1, {"consumer": "somebody else"}),
        Sample("label", 1, {"n": 1}),  # type: ignore[dict-item]
        Sample("label", 1, {"path": "\udcff"}),
        Sample("label", 1, None),  # type: ignore[arg-type]
        Sample("kind", 1, kind="histogram"),  # type: ignore[arg-type]
        Sample("value", "many"),  # type: ignore[arg-type]
        Sample("value", 10**400),
        Sample("help", 1, help="\udcff"),
        Sample("right", 2, kind="gauge"),
        Sample("right", 2, {"of": "it"}),
        "no sample",
        None,
    ],
)
def test_a_wrong_sample_is_left_out_and_told_and_the_others_are_shown(wrong: Any) -> None:
    own = [Sample("right", 1, {"of": "it"}), wrong, Sample("right", 1, {"of": "another"})]
    admitted, problems = valid_samples(own)
    assert [each.labels["of"] for each in admitted] == ["it", "another"]
    assert len(problems) == 1
    assert len(shown({"edge": own})["discovery_proxy_right_total"]) == 2


def test_figures_that_have_the_name_of_one_of_the_core_do_not_spoil_it() -> None:
    assert shown({"edge": [Sample("applies", 7), Sample("own", 1)]}, plugin="consumer") == {
        "discovery_consumer_own_total": [({"consumer": "edge"}, 1)]
    }


def test_two_instances_that_disagree_on_the_kind_do_not_spoil_each_other() -> None:
    own = {"a": [Sample("open", 1)], "b": [Sample("open", 2, kind="gauge"), Sample("open_total", 3, kind="gauge")]}
    assert shown(own) == {"discovery_proxy_open_total": [({"consumer": "a"}, 1)]}


names = st.sampled_from(["a", "b", "a_total", "b_total"]) | st.text(max_size=3)
samples = st.builds(
    Sample,
    names,
    st.floats() | st.integers(),
    st.dictionaries(st.sampled_from(["x", "y", "le"]) | st.text(max_size=2), st.text(max_size=3), max_size=2),
    st.sampled_from(["counter", "gauge"]),
    st.text(max_size=5),
)


@given(st.dictionaries(st.sampled_from(["one", "two"]), st.lists(samples, max_size=6)), st.text(min_size=1, max_size=5))
def test_whatever_plugins_tell_what_is_shown_can_be_read(own: dict[str, list[Any]], plugin: str) -> None:
    for labelled in shown(own, plugin).values():
        for labels, _ in labelled:
            assert labels["consumer"] in own
