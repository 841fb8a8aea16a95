"""Parsing of the servers that HAProxy reports."""

import pytest

from discovery_haproxy.runtime_api.read_back import LiveServer, parse_states

STATES = """\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight ...
3 web 12 b 2001:db8::1 2 0 5 1 0 6 3 4 6 0 0 0 - 81 - 0 0 - - 0
3 web 13 gone 10.0.0.3 0 9 1 1 0 6 2 4 2 0 0 0 - 80 - 0 0 - - 0
"""


def test_a_row_is_a_server() -> None:
    assert parse_states(STATES) == {
        ("web", "b"): LiveServer(
            "12", "2001:db8::1", 81, 5, up=True, removed=False, failed=False, initial_weight=1, draining=False,
            disabled=False, checked=True, check_enabled=True, check_paused=False,
        ),
        ("web", "gone"): LiveServer(
            "13", "10.0.0.3", 80, 1, up=False, removed=True, failed=True, initial_weight=1, draining=True,
            disabled=False, checked=True, check_enabled=False, check_paused=False,
        ),
    }  # fmt: skip


def test_any_other_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="not an answer"):
        parse_states("Can't find backend.\n")
