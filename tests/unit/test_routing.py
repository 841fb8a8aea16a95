"""Routes of requests on shared addresses: their order, and claims that exclude each other."""

import pytest

from discovery.routing import AddressClaim, Route, check_conflicts, group_by_address, routes

WEB = AddressClaim("web", "127.0.0.1:80", "http")


def test_the_most_specific_route_is_first() -> None:
    claims = [
        WEB,
        WEB._replace(service="suffix", hosts=("*.a.com",)),
        WEB._replace(service="exact", hosts=("x.a.com",), prefixes=("/p", "/")),
        WEB._replace(service="prefix", hosts=("x.*",)),
    ]
    assert routes(claims) == (
        Route("x.a.com", "/p", "exact"),
        Route("x.a.com", "/", "exact"),
        Route("*.a.com", "/", "suffix"),
        Route("x.*", "/", "prefix"),
        Route("*", "/", "web"),
    )


def test_claims_are_grouped_by_their_address_and_ordered_by_service() -> None:
    other = AddressClaim("a", "127.0.0.1:80", "http")
    alone = AddressClaim("a", "127.0.0.1:443", "tcp")
    assert group_by_address([WEB, other, alone]) == {"127.0.0.1:443": (alone,), "127.0.0.1:80": (other, WEB)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "'api' and 'web' both take everything on 127.0.0.1:80: give them different 'hosts' or 'path_prefix'"),
        ({"mode": "tcp"}, "only 'api' is in tcp mode"),
        ({"hosts": ("x",), "accept_proxy": ("10.0.0.0/8",)}, "not the same 'accept_proxy'"),
        ({"service": "web"}, "service 'web' names 127.0.0.1:80 twice"),
    ],
)
def test_claims_that_exclude_each_other_are_refused_by_both_names(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_conflicts([WEB, WEB._replace(service="api")._replace(**change)])
    check_conflicts([WEB, WEB._replace(service="api", hosts=("api.example.com",))])


def test_a_service_that_names_an_address_twice_is_refused_beside_another_service() -> None:
    with pytest.raises(ValueError, match=r"service 'web' names 127\.0\.0\.1:80 twice"):
        check_conflicts([WEB, WEB._replace(service="api", hosts=("api.example.com",)), WEB])
