"""The records of daemons: what is written is read again, and what is not valid is refused."""

from pathlib import Path

import pytest

from discovery.codec import Record, decode, encode
from discovery.errors import ConfigError, RecordError
from discovery.fleet.announcement import SERVICE, Announcement, announcement_of, backend_of, id_of, time_text
from discovery.fleet.place import fleet_url, valid_prefix
from discovery.fleet.reach import first_admitted
from discovery.fleet.survey import MOST_LISTED, members_in
from discovery.model import Backend, Snapshot
from discovery.registry import RegistryURL

ONE = Announcement(
    id_of("owner"), "10.0.0.5", 9901, "https", "0.3.0.dev1+g1", "web-1", "/run/discovery", ("consumer", "provider"),
    time_text(1_800_000_000.9),
)  # fmt: skip


@pytest.mark.parametrize("one", [ONE, ONE._replace(host="2001:db8::5", roles=()), ONE._replace(roles=("provider",))])
def test_what_is_announced_is_read_again(one: Announcement) -> None:
    read = decode(f"{SERVICE}/{one.id}", encode(backend_of(one), "owner", 10.0))
    assert isinstance(read, Record)
    assert read.ignored == ()
    assert announcement_of(read.backend) == one
    assert one.since == "2027-01-15T08:00:00Z"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "web-1"}, "the id"),
        ({"scheme": "file"}, "the scheme"),
        ({"version": ""}, "the version"),
        ({"version": "1 or <b>2</b>"}, "the version"),
        ({"since": "yesterday"}, "since"),
        ({"machine": ""}, "machine is missing"),
        ({"run_dir": ""}, "run_dir is missing"),
        ({"roles": ("consumer", "root")}, "the roles"),
        ({"roles": ("consumer", "consumer")}, "the roles"),
    ],
)
def test_a_record_with_an_invalid_part_names_the_part(change: dict[str, str], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        announcement_of(backend_of(ONE._replace(**change)))  # type: ignore[arg-type]


def test_very_many_records_push_no_old_one_out() -> None:
    old = backend_of(ONE._replace(machine="zzz"))
    new = [backend_of(ONE._replace(id=f"{number:016x}", machine="aaa")) for number in range(MOST_LISTED + 5)]
    created = [Backend(each.service, each.id, each.host, each.port, labels=each.labels, created=9) for each in new]
    old = Backend(old.service, old.id, old.host, old.port, labels=old.labels, created=2)
    listed = members_in(Snapshot.of(10, [*created, old, Backend("other", "x", "10.0.0.1", 1)]))
    assert listed.announcements[-1].machine == "zzz"
    assert (len(listed.announcements), listed.more, listed.invalid) == (MOST_LISTED, 6, {})


@pytest.mark.parametrize(
    ("registry", "prefix", "path"),
    [
        ("etcd://a", None, "/discovery"),
        ("etcds://u:p@a:1,b:2/team/services?ca=/x", None, "/discovery"),
        ("etcd://a/services", "/services-daemons", "/services-daemons"),
        ("etcd://a/discovery-services", None, "/discovery"),
    ],
)
def test_the_same_registry_at_another_prefix(registry: str, prefix: str | None, path: str) -> None:
    url = RegistryURL.parse(registry)
    found = fleet_url(url, prefix)
    assert (found.path, found.endpoints, found.password, found.options) == (
        path, url.endpoints, url.password, url.options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("registry", "prefix"),
    [
        ("etcd://a", "/services"),
        ("etcd://a", "/services/daemons"),
        ("etcd://a/discovery", None),
        ("etcd://a/discovery/services", None),
        ("etcd://a/x/y", "/x"),
    ],
)
def test_a_prefix_that_meets_the_services_is_refused(registry: str, prefix: str | None) -> None:
    with pytest.raises(ConfigError, match="overlaps with .* choose another"):
        fleet_url(RegistryURL.parse(registry), prefix)


def test_directories_that_meet_are_refused_by_whatever_path(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "services")
    url = RegistryURL.parse(f"file://{tmp_path}/services")
    for prefix in ("services", "services/daemons", "link/daemons", "."):
        with pytest.raises(ConfigError, match="overlaps"):
            fleet_url(url, f"{tmp_path}/{prefix}")
    for services, prefix in (("/", str(tmp_path)), ("/.", "/daemons"), (str(tmp_path), "/")):
        with pytest.raises(ConfigError, match="overlaps"):
            fleet_url(RegistryURL.parse(f"file://{services}"), prefix)
    assert fleet_url(url, f"{tmp_path}/daemons").path == f"{tmp_path}/daemons"
    with pytest.raises(ConfigError, match="fleet_prefix"):
        fleet_url(url, None)


def test_other_registries_have_no_place_for_daemons() -> None:
    with pytest.raises(ConfigError, match="in etcd and in file registries alone"):
        fleet_url(RegistryURL.parse("memory://"), "/discovery")


@pytest.mark.parametrize("prefix", ["", "/", "daemons", "/a//b", "/a\n", "/" + "a" * 2000])
def test_a_prefix_is_a_path(prefix: str) -> None:
    with pytest.raises(ValueError, match="is not a prefix"):
        valid_prefix(prefix)


def test_an_address_is_admitted_by_the_network_that_it_is_connected_to_in() -> None:
    networks = ("10.0.0.0/8", "2001:db8::/32")
    assert first_admitted(["192.0.2.1", "10.1.2.3"], networks) == "10.1.2.3"
    assert first_admitted(["::ffff:10.1.2.3"], networks) == "10.1.2.3"
    assert first_admitted(["::ffff:192.0.2.1", "::a00:1", "nonsense", "fe80::1"], networks) is None
    assert first_admitted(["2001:db8::7"], networks) == "2001:db8::7"
    assert first_admitted(["127.0.0.1"], ()) is None
    assert first_admitted(["::ffff:10.1.2.3", "fe80::1%lo", "fe80::1"], ("::/0",)) == "fe80::1"
    assert first_admitted(["64:ff9b::a00:1", "::ffff:0:a00:1", "2002:a00:1::", "127.1", "010.0.0.1"], networks) is None
    no_destination = ("0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "255.255.255.255")
    assert first_admitted(no_destination, ("0.0.0.0/0", "::/0")) is None
