"""The search for the newest accepted combination of parts, with any offenders, named by alerts or not."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from discovery import Snapshot
from discovery_haproxy.deployment.faults import SETTINGS, Fault, Part, PartKind, Refusal
from discovery_haproxy.fallback.blaming import Layout
from discovery_haproxy.fallback.composing import Accepted, Composed, Wanted, accepted_config, compose
from discovery_haproxy.fallback.forms import ACCEPTED, LEFT_OUT
from discovery_haproxy.fallback.search import Deployment, Found, Search
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.sections import Sections

NAMES = tuple(f"s{number}" for number in range(8))
names = st.sets(st.sampled_from(NAMES))


def config(lines: str, settings: str, of: set[str], bad: set[str]) -> HAProxyConfig:
    """Return a configuration of these services, of which those in `bad` have a line that is refused."""
    return HAProxyConfig.model_validate(
        {
            "global_lines": settings,
            "services": {
                name: {"bind": f"127.0.0.1:{8000 + int(name[1:])}", "backend_lines": "bad" if name in bad else lines}
                for name in of
            },
        }
    )


def refusal(composed: Composed, *, named: bool) -> Refusal | None:
    """Refuse each service, and the settings, with a line `bad`."""
    bad = [
        Part(PartKind.SERVICE, name) for name, each in composed.config.services.items() if "bad" in each.backend_lines
    ]
    bad += [SETTINGS] if "bad" in composed.config.global_lines else []
    if not bad:
        return None
    return Refusal("refused", tuple(Fault(f"bad {part}", part=part if named else None) for part in bad))


@given(accepted=names, bad=names, settings=st.booleans(), named=st.booleans())
def test_offenders_alone_are_in_an_earlier_form(accepted: set[str], bad: set[str], settings: bool, named: bool) -> None:
    wanted = Wanted(config("new", "bad" if settings else "new", set(NAMES), bad), Snapshot.of(1, ()))
    before = Accepted(config("old", "old", accepted, set()), {}, {})

    async def answer(composed: Composed) -> Refusal | None:
        return refusal(composed, named=named)

    def layout(composed: Composed) -> Layout:
        return Layout("", Sections((), (), (), ()), composed.config)

    deployment = Deployment(answer, answer, layout, lambda _: True)
    found = asyncio.run(Search(wanted, lambda: before, deployment).run(Found({}, {})))
    expected = {Part(PartKind.SERVICE, name): ACCEPTED if name in accepted else LEFT_OUT for name in bad}
    services = {part: form for part, form in found.choice.items() if part != SETTINGS}
    assert (SETTINGS in found.choice) == settings
    assert services.keys() == expected.keys()
    if named:
        assert services == expected
    assert found.reasons.keys() == found.choice.keys()
    composed = compose(wanted, before, found.choice).config
    assert composed.global_lines == (("old",) if settings else ("new",))
    for name in NAMES:
        lines = composed.services[name].backend_lines
        assert lines == (("new",) if name not in bad else ("old",) if name in accepted else ())
    # What is recorded as accepted is what was deployed; what was never accepted is not recorded.
    recorded = accepted_config(wanted, before, found.choice)
    assert recorded.services.keys() == set(NAMES) - (bad - accepted)
    assert all("bad" not in each.backend_lines for each in recorded.services.values())


def test_which_services_are_served_is_always_as_wanted() -> None:
    by_label = HAProxyConfig.model_validate({"label_routes": "*.example.com"})
    by_name = HAProxyConfig()
    for wanted, earlier in ((by_name, by_label), (by_label, by_name)):
        composed = compose(Wanted(wanted, Snapshot.of(1, ())), Accepted(earlier, {}, {}), {SETTINGS: ACCEPTED}).config
        assert composed.serves_by_name is wanted.serves_by_name
