"""Comparison of the servers that HAProxy reports with those of a configuration."""

import pytest

from discovery_haproxy.runtime_api.read_back import configuration_difference, difference, parse_states
from discovery_haproxy.text.configuration import Configuration, parse

STATES = """\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight ...
3 web 11 a 10.0.0.1 2 0 1 1 0 6 3 4 6 0 0 0 - 80 - 0 0 - - 0
3 web 12 b 2001:db8::1 2 0 5 1 0 6 3 4 6 0 0 0 - 81 - 0 0 - - 0
3 web 13 gone 10.0.0.3 0 1 1 1 0 6 3 4 6 0 0 0 - 80 - 0 0 - - 0
4 other 1 x 10.0.0.9 2 0 1 1 0 6 3 4 6 0 0 0 - 80 - 0 0 - - 0
"""
A = "server a 10.0.0.1:80 id 11 weight 1"
B = "server b [2001:db8::1]:81 id 12 weight 5"
GONE = "server gone 10.0.0.3:80 id 13"


def web(*servers: str) -> Configuration:
    return parse("backend web\n" + "".join(f"    {server}\n" for server in servers))


@pytest.mark.parametrize(
    ("servers", "found"),
    [
        ((A, B), ""),
        ((A, "server b [2001:0db8:0::1]:81 id 12 weight 5"), ""),
        ((A, "server b [2001:db8::1]:81"), ""),
        ((A,), "web/b is there"),
        ((A, B, "server c 10.0.0.4:80"), "web/c is missing"),
        ((A.replace(":80", ":82"), B), "web/a is at 10.0.0.1 port 80"),
        ((A.replace("10.0.0.1", "10.0.0.2"), B), "web/a is at 10.0.0.1 port 80"),
        ((A.replace("id 11", "id 17"), B), "web/a has the id 11"),
    ],
)
def test_membership_addresses_and_ids_are_compared(servers: tuple[str, ...], found: str) -> None:
    live = parse_states(STATES)
    assert difference(web(*servers).backends["web"], live, {("web", "gone")}, ()) == found


def test_the_weights_of_servers_that_were_weighed_are_compared() -> None:
    section, live = web(A, B.replace("weight 5", "weight 6")).backends["web"], parse_states(STATES)
    assert difference(section, live, {("web", "gone")}, ("a",)) == ""
    assert difference(section, live, {("web", "gone")}, ("a", "b")) == "web/b has the weight 5"
    assert difference(section, live, {("web", "gone")}) == "web/b has the weight 5"


def test_what_an_operator_has_set_is_no_difference_from_a_whole_configuration() -> None:
    live = parse_states(STATES)
    manual = B.replace("weight 5", "weight 6")
    assert configuration_difference(web(A, manual), web(A, manual), live) == ""
    assert configuration_difference(web(A, B, GONE), web(A, B, GONE), live) == ""
    assert configuration_difference(web(A, B, GONE), None, live) == ""


def test_what_an_earlier_configuration_explains_is_a_difference() -> None:
    live = parse_states(STATES)
    assert configuration_difference(web(A, B.replace("5", "6")), web(A, B), live) == "web/b has the weight 5"
    assert configuration_difference(web(A, B, GONE), web(A, B), live) == "web/gone is in maintenance"


def test_any_other_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="not an answer"):
        parse_states("Can't find backend.\n")
