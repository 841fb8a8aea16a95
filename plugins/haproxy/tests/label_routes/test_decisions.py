"""Whose a route is: the configuration's, then that of the oldest record."""

from itertools import islice, permutations

from hypothesis import given
from hypothesis import strategies as st

from discovery_haproxy.label_routes.decisions import Decisions, Granted, decide
from discovery_haproxy.label_routes.requests import Wish

SHOP, API = ("shop.example.com", "/"), ("shop.example.com", "/api")
WISHES = st.lists(
    st.builds(
        Wish,
        st.sampled_from("abc"),
        st.sampled_from("123"),
        st.sampled_from(["x", "y"]),
        st.sampled_from(["/", "/p"]),
    ),
    unique_by=lambda wish: wish.key,
    max_size=9,
)


def wish(service: str, id_: str, route: tuple[str, str]) -> Wish:
    return Wish(service, id_, *route)


def decided(*wishes: Wish, **configured: tuple[str, str]) -> Decisions:
    """Decide; the wishes are ordered from the oldest to the youngest record."""
    ages = {each.key: age for age, each in enumerate(wishes)}
    return decide(wishes, ages, {route: name for name, route in configured.items()})


def test_a_service_gets_what_its_backends_ask_for() -> None:
    found = decided(wish("shop", "1", SHOP), wish("shop", "2", SHOP), wish("api", "1", API))
    assert found == Decisions(
        {"api": Granted(("shop.example.com",), "/api"), "shop": Granted(("shop.example.com",), "/")}, ()
    )


def test_the_older_record_wins_and_the_refusal_names_both() -> None:
    found = decided(wish("new", "9", SHOP), wish("a", "1", SHOP), wish("a", "2", SHOP))
    assert list(found.services) == ["new"]
    assert found.problems == (
        "backend '1' of 'a' gets no route for shop.example.com: the service 'new' has it, whose backend '9' is older",
    )


def test_no_label_takes_a_route_of_the_configuration() -> None:
    found = decided(wish("a", "1", API), mine=API)
    assert not found.services
    assert found.problems == (
        "backend '1' of 'a' gets no route for shop.example.com/api: the configuration gives it to the service 'mine'",
    )


def test_a_service_has_the_path_of_its_oldest_backend() -> None:
    found = decided(wish("a", "1", ("x", "/v1")), wish("a", "2", ("y", "/v1")), wish("a", "3", ("x", "/v2")))
    assert found.services == {"a": Granted(("x", "y"), "/v1")}
    assert found.problems == (
        "backend '3' of 'a' gets no route for x/v2: the older backend '1' of the service has the path /v1",
    )


@given(WISHES)
def test_each_route_has_one_service_whatever_the_order(wishes: list[Wish]) -> None:
    ages = {each.key: int(each.id) for each in wishes}
    found = decide(wishes, ages, {})
    routes = [(host, granted.path) for granted in found.services.values() for host in granted.hosts]
    assert len(routes) == len(set(routes))
    for other in islice(permutations(wishes), 6):
        assert decide(other, ages, {}) == found
    if wishes:
        oldest = min(wishes, key=lambda each: (ages[each.key], each.key))
        granted = found.services[oldest.service]
        assert (oldest.host in granted.hosts, granted.path) == (True, oldest.path)
