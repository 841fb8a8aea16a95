"""Plans for the change from one configuration to another, without HAProxy."""

import pytest

from discovery_haproxy.runtime_api.checks import Connect, HAProxyCheck, Request, check_of
from discovery_haproxy.runtime_api.commands import commands
from discovery_haproxy.runtime_api.costs import Costs
from discovery_haproxy.runtime_api.planner import Add, Plan, Reload, Step, make_plan
from discovery_haproxy.text.configuration import parse
from discovery_haproxy.text.server_line import Server

HEAD = """\
global
    description cfg-0123456789abcdef-{hash}
defaults
    default-server init-addr last,none resolvers discovery
    mode http
frontend web
    bind :80
    default_backend web
backend web
    balance {balance}
    {line}
    default-server inter 2s fall 3 rise 2 check
"""
A = "    server a 10.0.0.1:80 weight 1 id 11"
B = "    server b 10.0.0.2:80 weight 2 id 12"
HTTP = """option httpchk
    http-check send meth GET uri /health ver HTTP/1.1 hdr Host localhost
    http-check expect status 200-299,304"""
UP = "set server web/a health up"
VERSION = (2, 8, 25)


def text(*servers: str, balance: str = "roundrobin", line: str = "", generation: str = "00") -> str:
    head = HEAD.format(balance=balance, line=line, hash=generation)
    return head + "".join(f"{server}\n" for server in servers) + "backend other\n    server a 10.0.0.9:80\n"


def planned(
    old: str, new: str, version: tuple[int, ...] = VERSION, waiting: dict[tuple[str, str], Server | None] | None = None
) -> Plan | Reload:
    return make_plan(parse(old), parse(new), version, waiting or {})


def said(plan: Plan | Reload, *, up: bool = True, version: tuple[int, ...] = VERSION) -> list[str]:
    assert isinstance(plan, Plan), plan
    return [command.text for step in plan.steps for command in commands(step, version, up=up)]


def test_comments_and_empty_lines_are_no_difference() -> None:
    assert said(planned(text("    # one", A), text("    # two", "", A))) == []


def test_equal_configurations_need_no_step() -> None:
    plan = planned(text(A, B), text(A, B, generation="ff"))
    assert isinstance(plan, Plan)
    assert plan.steps == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([A, B], [A, B.replace("weight 2", "weight 0")], ["set server web/b weight 0"]),
        ([A], [A.replace("10.0.0.1:80", "10.0.0.3:81")], ["set server web/a addr 10.0.0.3 port 81", UP]),
        ([A], [A.replace("10.0.0.1:80", "[::1]:81")], ["set server web/a addr ::1 port 81", UP]),
        ([A, B], [A], ["set server web/b state maint"]),
        ([B, A], [A, B], []),
        (
            [A],
            [A, B],
            [
                "add server web/b 10.0.0.2:80 weight 2 inter 2s fall 3 rise 2 check id 12",
                "enable health web/b",
                "enable server web/b",
            ],
        ),
    ],
)
def test_a_change_of_servers_needs_commands(old: list[str], new: list[str], expected: list[str]) -> None:
    assert said(planned(text(*old), text(*new))) == expected


def test_a_server_that_is_not_reachable_is_added_as_down() -> None:
    assert said(planned(text(A), text(A, B)), up=False)[1:] == [
        "enable health web/b",
        "enable server web/b",
        "set server web/b health down",
    ]
    moved = A.replace("10.0.0.1", "10.0.0.3")
    assert said(planned(text(A), text(moved)))[1:] == ["set server web/a health up"]
    assert said(planned(text(A), text(moved)), up=False) == [
        "set server web/a health down",
        "set server web/a addr 10.0.0.3 port 80",
    ]


def test_servers_are_added_before_others_are_removed_or_drained() -> None:
    c = "    server c 10.0.0.3:80 weight 1 id 13"
    said_ = said(planned(text(A, B), text(B.replace("weight 2", "weight 0"), c)))
    assert [" ".join(command.split()[:3]) for command in said_] == [
        "add server web/c",
        "enable health web/c",
        "enable server web/c",
        "set server web/a",
        "set server web/b",
    ]


def test_haproxy_2_6_reuses_connections_to_added_servers() -> None:
    [add, *_] = said(planned(text(A), text(A, B)), version=(2, 6, 12))
    assert "pool-purge-delay 5s pool-max-conn -1" in add


def test_a_server_that_returns_before_its_deletion_is_revived() -> None:
    waiting = {("web", "b"): parse(text(A, B)).backends["web"].server("b")}
    assert said(planned(text(A), text(A, B.replace("10.0.0.2", "10.0.0.4")), waiting=waiting)) == [
        "set server web/b addr 10.0.0.4 port 80",
        "set server web/b weight 2",
        "set server web/b state ready",
        "enable health web/b",
        "set server web/b health up",
    ]
    other = planned(text(A), text(A, B + " maxconn 5"), waiting=waiting)
    assert isinstance(other, Reload)
    assert "with other options" in other.reason


def test_the_first_backup_is_that_of_the_file_also_without_a_reload() -> None:
    spare = A.replace("server a", "server c") + " backup"
    before = planned(text(B + " backup"), text(A + " backup", B + " backup"))
    assert isinstance(before, Reload)
    assert before.reason == "web/a is a backup, and comes before b only by a reload"
    assert isinstance(planned(text(B), text(A + " backup", B)), Plan)
    assert isinstance(planned(text(B + " backup"), text(B + " backup", spare.replace("id 11", "id 13"))), Plan)
    all_ = "option allbackups"
    assert isinstance(planned(text(B + " backup", line=all_), text(A + " backup", B + " backup", line=all_)), Plan)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (text(A), text(A, line="option forwardfor"), "the line 'option forwardfor' of backend web changes"),
        (text(A, line="maxconn 5"), text(A, line="maxconn 6"), "the line 'maxconn' of backend web changes"),
        (text(A, line="# none"), text(A, line="stats auth a:secret"), "the line 'stats auth' of backend web changes"),
        (
            text(A, line="timeout check 5s\nretries 2"),
            text(A, line="retries 2\ntimeout check 5s"),
            "the order of the lines of backend web changes",
        ),
        (text(A), text(A) + "backend more\n", "section added: backend more"),
        (text(A) + "backend more\n", text(A), "section removed: backend more"),
        (text(A), text(A).replace("cdef-00", "cdee-00"), "a file that the configuration names"),
        (text(A), text(A + " maxconn 5"), "options of the server web/a changed"),
        (text(A), text(A.replace("id 11", "id 13")), "options of the server web/a changed"),
        (text(A), text(A, "    server b host.example:80"), "cannot express the line of the server web/b"),
        (text(A), text(A, B + " disabled"), "cannot express the line of the server web/b"),
        (text(A), text(A, B + " namespace x"), "cannot express the line of the server web/b"),
        (text(A), text(A, B + ' sni str("a;b")'), "cannot express the line of the server web/b"),
        (text(A), text(A, B + r" sni str(a\x3bb)"), "cannot express the line of the server web/b"),
        (text(A), text(A, B.replace("server b", '"server" b')), "the line 'server' of backend web"),
        (text(A), text(A, B.replace("server b", 'server "b"')), "the line 'server' of backend web"),
        (text(A), text(A, B + " check port 80x"), "cannot express the line of the server web/b"),
        (text(A), text(A, B + " check port 99999"), "cannot express the line of the server web/b"),
        (text(A), text(A, B.replace(":80", ":0")), "cannot express the line of the server web/b"),
        (text(A), text(A, B.replace(":80", ":99999")), "cannot express the line of the server web/b"),
        (text(A, B + " on-marked-down shutdown-sessions"), text(A), "would cut the connections of web/b"),
        (text(A, balance="static-rr"), text(A, B, balance="static-rr"), "no servers at run time with static-rr"),
        (text(A, balance="source"), text(A, B, balance="source"), "no servers at run time with source"),
        (
            text(A, balance="static-rr"),
            text(A.replace("weight 1", "weight 3"), balance="static-rr"),
            "no weights at run time with static-rr",
        ),
        (
            text(A, balance="random"),
            text(A, B.replace(" id 12", ""), balance="random"),
            "server b sets no `id`",
        ),
        (text(A, line=".if feature(X)"), text(A, B, line=".if feature(X)"), "the line 'server' of backend web"),
        (
            text(A, line="server-template x 3 10.0.0.7:80"),
            text(A, B, line="server-template x 3 10.0.0.7:80"),
            "the line 'server' of backend web",
        ),
        (text(A, balance="first"), text(B.replace("id 12", "id 11"), balance="first"), "web/b takes the id of a"),
    ],
)
def test_what_the_runtime_api_cannot_express_is_a_reload(old: str, new: str, reason: str) -> None:
    plan = planned(old, new)
    assert isinstance(plan, Reload)
    assert reason in plan.reason


@pytest.mark.parametrize(
    ("version", "expected"),
    [((2, 6, 12), Reload), ((2, 6, 18), Plan), ((2, 8, 7), Reload), ((2, 8, 8), Plan), ((3, 0), Plan)],
)
def test_servers_with_cookies_are_added_where_haproxy_takes_the_keyword(
    version: tuple[int, ...], expected: type
) -> None:
    assert isinstance(planned(text(A), text(A, B + " cookie s1"), version), expected)


def test_consistent_hashing_and_servers_without_ids_where_ids_have_no_meaning() -> None:
    hashing = {"balance": "hdr(x)", "line": "hash-type consistent"}
    assert isinstance(planned(text(A, **hashing), text(A, B, **hashing)), Plan)
    assert isinstance(
        planned(text(A.replace(" id 11", "")), text(A.replace(" id 11", ""), B.replace(" id 12", ""))), Plan
    )


def servers(count: int, offset: int = 0, port: int = 80) -> list[str]:
    numbers = range(offset, offset + count)
    return [f"    server s{each} 10.{each // 60000}.{each // 250 % 240}.{each % 250 + 1}:{port}" for each in numbers]


@pytest.mark.parametrize(
    ("count", "kept", "expected"),
    [(1_000, 100, Plan), (10_000, 9_500, Plan), (10_000, 1_000, Reload)],
    ids=["900 of 1,000", "500 of 10,000", "9,000 of 10,000"],
)
def test_the_cheaper_way_is_chosen_for_the_replacement_of_many_servers(count: int, kept: int, expected: type) -> None:
    plan = planned(text(*servers(count)), text(*servers(kept), *servers(count - kept, count)))
    assert isinstance(plan, expected)
    if isinstance(plan, Reload):
        assert (
            plan.reason == "a reload is faster than so many changes: web: 9000 servers added, web: 9000 servers removed"
        )


def test_a_machine_whose_commands_are_slow_reloads_earlier() -> None:
    old, new = parse(text(*servers(1_000))), parse(text(*servers(100), *servers(900, 1_000)))
    assert isinstance(make_plan(old, new, VERSION, {}, Costs(commands=20.0)), Reload)
    assert isinstance(make_plan(old, new, VERSION, {}, Costs(commands=20.0, reload=20.0)), Plan)


def test_a_thousand_moves_need_no_reload_on_a_slow_machine() -> None:
    old, new = parse(text(*servers(1_000))), parse(text(*servers(1_000, port=81)))
    plan = make_plan(old, new, VERSION, {}, Costs(commands=10.0, reload=0.3))
    assert isinstance(plan, Plan)


@pytest.mark.parametrize("version", [(3, 2, 0), (3, 2, 6), (3, 2, 16), (3, 3, 1)])
def test_leastconn_is_reloaded_where_it_is_broken(version: tuple[int, ...]) -> None:
    leastconn = {"balance": "leastconn"}
    plan = planned(text(A, **leastconn), text(A, B, **leastconn), version)
    assert isinstance(plan, Reload)
    assert "can hang when" in plan.reason
    assert ".".join(map(str, version)) in plan.reason
    assert isinstance(planned(text(A), text(A, B), version), Plan)
    assert isinstance(planned(text(A, **leastconn), text(A, B, **leastconn), (3, 2, 17)), Plan)


def test_more_moves_than_a_broken_version_can_keep_are_a_reload() -> None:
    old, few, all_ = text(*servers(100)), text(*servers(99, port=81), *servers(1, 99)), text(*servers(100, port=81))
    assert isinstance(planned(old, few, (3, 0, 4)), Plan)
    assert isinstance(planned(old, all_, (3, 0, 4)), Reload)
    assert isinstance(planned(old, all_, (3, 0, 5)), Plan)


def test_a_server_with_proto_is_added_where_haproxy_heeds_it() -> None:
    new = text(A, B + " proto h2")
    assert isinstance(planned(text(A), new, (2, 6, 12)), Reload)
    assert isinstance(planned(text(A), new, (2, 6, 16)), Plan)


def test_a_section_without_an_algorithm_goes_by_ids_from_3_3_on() -> None:
    new = text(A, B.replace(" id 12", "")).replace("    balance roundrobin\n", "")
    old = text(A).replace("    balance roundrobin\n", "")
    assert isinstance(planned(old, new, (3, 2, 17)), Plan)
    assert isinstance(planned(old, new, (3, 3, 11)), Reload)


@pytest.mark.parametrize(
    ("line", "words", "check"),
    [
        ("", "", Connect("10.0.0.2", 80)),
        ("", " port 90", Connect("10.0.0.2", 90)),
        ("", " addr 10.0.0.5", Connect("10.0.0.5", 80)),
        ("option httpchk", "", HAProxyCheck()),
        ('option "httpchk"', "", HAProxyCheck()),
        (HTTP, "", Request("10.0.0.2", 80, "GET", "/health", "localhost", ((200, 299), (304, 304)))),
        (HTTP, " ssl verify none", HAProxyCheck()),
        (HTTP.replace("/health", '"/a b"'), "", HAProxyCheck()),
        (HTTP + "\n    http-check expect string ok", "", HAProxyCheck()),
        (HTTP.replace("option httpchk", "option httpchk GET /other"), "", HAProxyCheck()),
        ("option redis-check", "", HAProxyCheck()),
        ("", " ssl verify none", HAProxyCheck()),
        ("", " check-send-proxy send-proxy", HAProxyCheck()),
    ],
)
def test_the_check_of_a_server(line: str, words: str, check: object) -> None:
    section = parse(text(B + words, line=line)).backends["web"]
    server = section.server("b")
    assert server is not None
    found = check_of(section, server)
    if isinstance(found, Connect | Request):
        found = found._replace(address=str(found.address))
    assert found == check


def test_a_server_without_a_check_has_none() -> None:
    section = parse(text(B)).backends["other"]
    server = section.server("a")
    assert server is not None
    assert check_of(section, server) is None


def test_the_steps_name_what_they_change() -> None:
    plan = planned(text(A), text(A, B))
    assert isinstance(plan, Plan)
    assert plan.reason == "web: 1 server added"
    assert plan.sections == ("web",)
    [step] = plan.steps
    assert isinstance(step, Add)
    assert isinstance(step, Step)


def test_new_contents_of_files_need_no_reload() -> None:
    def named(certificate: str, routes: str, line: str = "") -> str:
        comments = f"# Written by discovery\n# Certificate /a.pem: {certificate}\n# Certificate /b.pem: 0b\n"
        return f"{comments}# Map /routes.map: {routes}\n" + text(A).replace("defaults", f"{line}\ndefaults", 1)

    plan = planned(named("01", "02"), named("0a", "02"))
    assert isinstance(plan, Plan)
    assert (plan.certificates, plan.maps, plan.is_empty) == (("/a.pem",), (), False)
    assert plan.reason == "new contents of /a.pem"
    plan = planned(named("01", "02"), named("01", "03"))
    assert isinstance(plan, Plan)
    assert (plan.certificates, plan.maps) == ((), ("/routes.map",))
    extra = "    ssl-load-extra-files none"
    assert isinstance(planned(named("01", "02", extra), named("0a", "02", extra)), Reload)
    assert isinstance(planned(named("01", "02", extra), named("01", "03", extra)), Plan)
