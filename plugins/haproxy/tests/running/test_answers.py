"""Parsing of HAProxy's answers and alerts."""

import pytest

from discovery_haproxy.managed.server_states import keep_configured
from discovery_haproxy.program.binary import first_alert
from discovery_haproxy.program.control_socket import ControlError, Processes, parse_processes
from discovery_haproxy.text.configuration import parse

SHOW_PROC = """\
#<PID>          <type>          <reloads>       <uptime>        <version>      
8565            master          3 [failed: 2]   0d00h00m06s     2.6.12-1+deb12u4
# workers
8571            worker          2               0d00h00m05s     2.6.12-1+deb12u4
# old workers
8500            worker          5               0d00h01m05s     2.6.12-1+deb12u4
8501            worker          4               0d00h01m02s     2.6.12-1+deb12u4
# programs

"""  # noqa: W291

STATES = """\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight ...
3 web 1 a 10.0.0.1 2 0 1 1 0 6 3 4 6 0 0 0 - 80 - 0 0 - - 0
3 web 2 b 10.0.0.2 0 0 1 1 0 6 3 4 6 0 0 0 - 80 - 0 0 - - 0
3 web 3 c 10.0.0.3 0 0 1 1 0 6 3 4 6 0 0 0 - 80 - 0 0 - - 0
3 web 4 d 10.0.0.4 2 0 1 1 0 6 3 4 6 0 0 0 d.example 80 - 0 0 - - 0
4 db 1 a 2001:db8::1 2 0 1 1 0 6 3 4 6 0 0 0 - 5432 - 0 0 - - 0
5 old 1 a 10.0.0.1 2 0 1 1 0 6 3 4 6 0 0 0 - 80 - 0 0 - - 0
"""

CONFIGURATION = """\
frontend web
    bind :80
    server a 10.0.0.9:99
backend web
    mode http
    server a 10.0.0.1:80 weight 1
    server b 10.0.0.2:81 weight 1
    server c 10.0.0.33:80 weight 1
    server d d.example:80 weight 1
    server new 10.0.0.5:80 weight 1
backend db
    server a [2001:db8::1]:5432 weight 1
"""


def test_show_proc() -> None:
    assert parse_processes(SHOW_PROC) == Processes(3, 2, (8571,), (8500, 8501))


@pytest.mark.parametrize("answer", ["", "Unknown command\n", "# workers\n"])
def test_any_other_answer_than_that_of_show_proc_is_refused(answer: str) -> None:
    with pytest.raises(ControlError):
        parse_processes(answer)


def test_only_states_of_servers_with_an_unchanged_address_are_kept() -> None:
    rows = [line.split()[1:4:2] for line in keep_configured(STATES, CONFIGURATION).splitlines()[2:]]
    assert rows == [["web", "a"], ["web", "d"], ["db", "a"]]
    assert keep_configured(STATES, CONFIGURATION).startswith("1\n# be_id")


@pytest.mark.parametrize(
    ("row", "possible", "kept"),
    [
        ("1 9", ["weight 1", "weight 1"], "1 9"),
        ("1 9", ["weight 1", ""], ""),
        ("1 9", [], ""),
        ("0 9", ["weight 1", "weight 1"], "0 9"),
        ("0 9", ["weight 1", "weight 9"], "0 1"),
        ("0 9", ["weight 2", "weight 3"], "0 1"),
        ("0 9", [], "0 1"),
        ("8 1", ["weight 1", "weight 1"], "8 1"),
    ],
)
def test_what_an_operator_has_set_is_told_from_an_interrupted_change(row: str, possible: list[str], kept: str) -> None:
    administrative, weight = row.split()
    states = f"1\n3 web 1 a 10.0.0.1 2 {administrative} {weight} 5 0 6 3 4 6 0 0 0 - 80 - 0 0 - - 0\n"
    between = [parse("backend web\n" + (f"server a 10.0.0.1:80 {each}\n" if each else "")) for each in possible]
    rows = [line.split() for line in keep_configured(states, CONFIGURATION, possible=between).splitlines()[1:]]
    assert [f"{each[6]} {each[7]}" for each in rows] == ([kept] if kept else [])
    assert all(each[8] == "1" for each in rows)


@pytest.mark.parametrize(
    ("row", "down", "kept"),
    [
        ("2 0 1", (), []),  # the health at the address before
        ("0 1 1", (), ["10.0.0.9 2 1 1"]),
        ("2 8 1", (), ["10.0.0.9 2 8 1"]),
        ("2 0 9", (), ["10.0.0.9 2 0 9"]),
        ("2 0 9", ("web",), ["10.0.0.9 0 0 9"]),
    ],
)
def test_a_server_that_moves_keeps_what_an_operator_has_set(row: str, down: tuple[str, ...], kept: list[str]) -> None:
    states = f"1\n3 web 1 a 10.0.0.1 {row} 1 0 6 3 4 6 0 0 0 - 80 - 0 0 - - 0\n"
    running = parse("backend web\nserver a 10.0.0.1:80 weight 1\n")
    moved = "backend web\nserver a 10.0.0.9:99 weight 1\n"
    rows = [line.split() for line in keep_configured(states, moved, running, initially_down=down).splitlines()[1:]]
    assert [" ".join(each[4:8]) for each in rows] == kept
    assert all(each[18] == "99" for each in rows)
    by_name = keep_configured(states, moved.replace("10.0.0.9", "a.example"), running, initially_down=down)
    assert by_name == "1\n"  # HAProxy has looked the name up, or will


@pytest.mark.parametrize(
    "configuration",
    [
        "backend web\nserver a 10.0.0.1:80\n",
        "  backend web\n\tserver\ta\t10.0.0.1:80\n",
        "listen web from base # another\n\n#backend db\nserver a 10.0.0.1:80#\n  # server a 10.0.0.9:80\n",
        "\"backend\" 'web'\r\n  server a 10.0.0.1:80 weight 1\r\n",
        'frontend web\n    server a 10.0.0.9:80\n  backend web\n \'server\' "a" "10.0.0.1:80"\nserver x\nfrontend db',
    ],
)
def test_a_configuration_is_read_as_haproxy_reads_it(configuration: str) -> None:
    """Issue 10, A8: a section begins with a keyword, and indentation means nothing."""
    assert [line.split()[3] for line in keep_configured(STATES, configuration).splitlines()[2:]] == ["a"]
    assert keep_configured(STATES, f"{configuration}\nuserlist db\nserver a 2001:db8::1:5432").count(" db ") == 0


def test_the_first_informative_alert_has_its_line() -> None:
    output = (
        "[NOTICE]   (1) : haproxy version is 2.6.12\n"
        "[ALERT]    (1) : config : parsing [/dev/stdin:2] : unknown keyword 'bnid' in 'frontend' section\n"
        "[ALERT]    (1) : config : Error(s) found in configuration file : /dev/stdin\n"
        "[ALERT]    (1) : config : another\n"
        "[ALERT]    (1) : config : Fatal errors found in configuration.\n"
    )
    assert first_alert(output, "frontend x\n  bnid :80\n") == (
        "line 2 (bnid :80): unknown keyword 'bnid' in 'frontend' section (and 1 more)"
    )
    assert first_alert("[NOTICE] (1) : fine\n") == ""
