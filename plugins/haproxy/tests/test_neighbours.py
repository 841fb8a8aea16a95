"""The operator's files beside a fragment: their order, the names in them, and what a fragment inherits."""

from pathlib import Path

import pytest

from discovery_haproxy.external.own_files import order
from discovery_haproxy.text.configuration import NOTHING, Inherited
from discovery_haproxy.text.neighbours import Defaults, neighbours

OWN = Path("/etc/haproxy/haproxy.cfg")
TEXT = """\
global
    maxconn 100
defaults first
    mode tcp
defaults
    mode http
    timeout connect 5s
userlist users
frontend web
    use_backend shop if { path_beg /shop }
    use_backend "quoted" if { nbsrv(counted) gt 0 }
    use_backend %[req.hdr(host)]
    default_backend own
frontend mail
    mode tcp
    default_backend imap # a comment
listen database
    server one 192.0.2.1:5432 track followed/first
backend own
    server one 192.0.2.1:80
"""


def test_names_of_backends_and_the_modes_of_the_sections_that_name_them() -> None:
    found = neighbours([(OWN, TEXT)])
    assert found.defined == {"database": f"{OWN}:17", "own": f"{OWN}:19"}
    assert found.named == {"shop": "http", "quoted": "http", "counted": "http", "imap": "tcp", "followed": "http"}
    assert found.servers == {"followed": ("first",)}


def test_a_mode_is_inherited_from_the_file_before() -> None:
    other = Path("/etc/haproxy/other.cfg")
    assert neighbours([(OWN, TEXT)], [(other, "frontend x\n  use_backend y\n")]).named["y"] == "http"
    assert neighbours([(other, "frontend x\n  use_backend y\n")]).named == {"y": "tcp"}


def test_a_fragment_inherits_from_the_defaults_before_it() -> None:
    found = neighbours([(OWN, TEXT)], [(OWN, "defaults\n  mode tcp\n")])
    assert found.inherited == Inherited(("mode http", "timeout connect 5s"), {"first": ("mode tcp",)})
    assert found.defaults == {
        "tcp": Defaults("first", f"{OWN}:3", last=False),
        "http": Defaults("", f"{OWN}:5", last=True),
    }
    assert neighbours([], [(OWN, TEXT)]).inherited == NOTHING


def test_servers_of_the_operators_own_backends_matter_to_no_fragment() -> None:
    text = "backend own\n  server a 192.0.2.1:80\nfrontend f\n  use_backend b if { srv_is_up(%s/a) }\n"
    assert neighbours([(OWN, text % "own")]).servers == {}
    assert neighbours([(OWN, text % "web")]).servers == {"web": ("a",)}


@pytest.mark.parametrize(
    ("files", "before", "after"),
    [
        (["own.cfg"], ["own.cfg"], []),
        (["own.cfg", "conf.d"], ["own.cfg", "conf.d/a.cfg"], ["conf.d/z.cfg"]),
        (["conf.d/services.cfg", "own.cfg"], [], ["own.cfg"]),
        (["conf.d/z.cfg", "conf.d/services.cfg"], ["conf.d/z.cfg"], []),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_the_place_of_the_fragment(
    tmp_path: Path, files: list[str], before: list[str], after: list[str], exists: bool
) -> None:
    directory = tmp_path / "conf.d"
    directory.mkdir()
    for name in ("a.cfg", "z.cfg", "a.cfg.last-good", ".hidden.cfg", "map.txt"):
        (directory / name).touch()
    fragment = directory / "services.cfg"
    if exists:
        fragment.touch()
    found = order([tmp_path / each for each in files], fragment)
    assert found == (tuple(tmp_path / each for each in before), tuple(tmp_path / each for each in after))
