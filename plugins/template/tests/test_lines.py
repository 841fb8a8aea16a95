"""The lines of the files that are about a backend."""

from pathlib import Path

from discovery import Backend
from discovery.toolkit import FileContents
from discovery_template.files.lines import lines_about

FILES = {
    Path("/etc/a.conf"): FileContents(
        b"upstream web {\n  server 10.0.0.1:80 weight=1;\n  server 10.0.0.10:80;\n  server 10.0.0.1:8080;\n}\n", 0o600
    ),
    Path("/etc/b.json"): FileContents(b'{"host": "10.0.0.1", "port": 80}\n{"host": "::1", "port": 81}\n', 0o600),
}


def test_lines_with_host_and_port_and_no_longer_number() -> None:
    backends = [
        Backend("web", "a", "10.0.0.1", 80),
        Backend("web", "b", "::1", 81),
        Backend("web", "c", "10.0.0.2", 80),
    ]
    assert lines_about(FILES, backends) == {
        "web/a": ("a.conf: server 10.0.0.1:80 weight=1;", 'b.json: {"host": "10.0.0.1", "port": 80}'),
        "web/b": ('b.json: {"host": "::1", "port": 81}',),
    }


def test_hosts_that_share_words_are_told_apart() -> None:
    text = b"2001:db8::1 80\n[2001:db8::2]:80\n[2001:db8::2]:81 weight 1\nserver=a.example:80\nserver=b.a.example:80\n"
    hosts = {"one": "2001:db8::1", "two": "2001:db8::2", "name": "a.example", "again": "a.example", "none": "::1"}
    backends = [Backend("web", id_, host, 80) for id_, host in hosts.items()]
    assert lines_about({Path("/a"): FileContents(text, 0o600)}, backends) == {
        "web/one": ("a: 2001:db8::1 80",),
        "web/two": ("a: [2001:db8::2]:80",),
        "web/name": ("a: server=a.example:80",),
        "web/again": ("a: server=a.example:80",),
    }


def test_of_many_lines_some_are_told() -> None:
    files = {Path("/a"): FileContents(b"10.0.0.1:80\n" * 100, 0o600)}
    assert len(lines_about(files, [Backend("web", "a", "10.0.0.1", 80)])["web/a"]) == 10
