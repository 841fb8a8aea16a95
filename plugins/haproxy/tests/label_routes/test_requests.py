"""What labels ask for: hosts that are allowed, and values that are refused by the name of their backend."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.testing import backend
from discovery_haproxy.label_routes.requests import HOST, PATH, Wishes, matches, wishes_of
from discovery_haproxy.options.config import ServiceConfig


def asked(host: str, path: str = "", *patterns: str) -> Wishes:
    """Return what a backend with these labels asks for."""
    return wishes_of([backend(id="b1", labels={HOST: host, PATH: path})], patterns or ("*",))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({HOST: "shop.example.com"}, ("shop.example.com", "/")),
        ({HOST: "Shop.Example.COM", PATH: "/api"}, ("shop.example.com", "/api")),
        ({HOST: "shop", PATH: "/"}, ("shop", "/")),
        ({HOST: "shop", PATH: "/a/b.c~1"}, ("shop", "/a/b.c~1")),
    ],
)
def test_labels_ask_for_a_host_below_a_path(labels: dict[str, str], expected: tuple[str, str]) -> None:
    found = wishes_of([backend(labels=labels)], ("*",))
    assert [(each.host, each.path) for each in found.wishes] == [expected]
    assert not found.problems


def test_a_backend_without_the_label_asks_for_nothing() -> None:
    assert wishes_of([backend(), backend(labels={PATH: "/api"}), backend(labels={HOST: ""})], ("*",)) == Wishes()


def test_a_new_weight_or_address_is_no_other_wish() -> None:
    first, other = (backend(id="b1", port=port, weight=port, labels={HOST: "a.example.com"}) for port in (1, 2))
    assert wishes_of([first], ("*",)) == wishes_of([other], ("*",))


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("*", "shop.example.com", True),
        ("shop.example.com", "shop.example.com", True),
        ("example.com", "shop.example.com", False),
        ("*.example.com", "shop.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("shop.*", "shop.example.com", True),
        ("shop.*", "shopping.example.com", False),
    ],
)
def test_patterns_say_which_hosts_are_allowed(pattern: str, host: str, expected: bool) -> None:
    assert matches(pattern, host) is expected
    found = asked(host, "", pattern)
    assert bool(found.wishes) is expected
    assert bool(found.problems) is not expected


HOSTILE = [
    "*", "*.example.com", "example.*", "a b", "a\nb", "a/b", "a:80", "a..b", ".a", "a.", "-a", "a#", "%[src]", "a;b",
    "{", "é.example.com", "a" * 64, ".".join(["abc"] * 80),
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTILE)
def test_what_is_no_host_name_is_refused_by_name(host: str) -> None:
    found = asked(host)
    assert not found.wishes
    [problem] = found.problems
    assert "backend 'b1' of 'web' gets no route: its label discovery.host is" in problem
    assert "\n" not in problem
    assert len(problem) < 250


@pytest.mark.parametrize("path", ["api", "/a b", "/a\n", "//a", "/a//b", "/a/", "/%[src] x", "/é", "/" + "a" * 300])
def test_what_is_no_path_is_refused_by_name(path: str) -> None:
    found = asked("shop", path)
    assert not found.wishes
    assert "backend 'b1' of 'web' gets no route: its label discovery.path is" in found.problems[0]


@given(st.text("ab1A.-_/*%:\u00e9\n", max_size=20), st.text("ab1A.-_/*%:\u00e9\n", max_size=20))
def test_every_text_is_refused_or_fits_the_options(host: str, path: str) -> None:
    for wish in asked(host, path).wishes:
        service = ServiceConfig(hosts=(wish.host,), path_prefix=(wish.path,))
        assert (service.hosts, service.path_prefix) == ((wish.host,), (wish.path,))
        assert "*" not in wish.host
