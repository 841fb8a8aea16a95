"""HAProxy's statistics of servers as CSV."""

import pytest

from discovery_haproxy.program.statistics import SectionRow, parse_down, parse_sections

HEADER = "# pxname,svname,status,act,bck,lastchg,iid,check_status,check_code,last_chk,\n"


def test_sections_tell_how_many_servers_are_up() -> None:
    answer = f"{HEADER}web,BACKEND,UP,2,1,5,3,,,,\ndb,BACKEND,DOWN,,,5,4,,,,\n\n"
    assert parse_sections(answer) == [SectionRow("web", 3, 3), SectionRow("db", 4, 0)]


def test_only_what_a_check_finds_down_is_down() -> None:
    rows = (
        "web,a,UP,1,0,5,3,L4OK,,,",
        "web,b,DOWN,0,0,7,3,L4CON,,Connection refused,",
        'web,c,DOWN 1/2,0,0,7,3,* L7STS,503,"Service, quoted ""x""",',
        "web,d,MAINT,0,0,7,3,,,,",
        "web,e,DRAIN,0,0,7,3,L4OK,,,",
        "web,f,no check,1,0,7,3,,,,",
        "web,g,UP 1/3,1,0,7,3,L4TOUT,,,",
        "web,h,DOWN,0,0,,3,,,,",
    )
    assert parse_down(HEADER + "\n".join(rows)) == {
        "b": "HAProxy's check: L4CON Connection refused, for 7 s",
        "c": 'HAProxy\'s check: L7STS 503 Service, quoted "x", for 7 s',
        "h": "HAProxy's check: no check has passed",
    }


@pytest.mark.parametrize("answer", ["", "Unknown command", "1\n# be_id be_name"])
def test_another_answer_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="show stat"):
        parse_down(answer)
