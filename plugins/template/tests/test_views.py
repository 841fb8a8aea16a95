"""What templates see: addresses of host names, IPv6, draining backends, missing labels and services."""

from pathlib import Path

from discovery import Backend, Snapshot, State, Update, diff
from discovery_template.printing.environment import Templates
from discovery_template.printing.views import Services, ServiceView, views_of

BACKENDS = [
    Backend("db", "named", "db.example.com", 5432, labels={"zone": "a"}),
    Backend("db", "six", "2001:db8::1", 5432, weight=7),
    Backend("db", "unknown", "gone.example.com", 5432),
    Backend("web", "draining", "10.0.0.1", 80, state=State.DRAINING),
    Backend("web", "idle", "10.0.0.2", 80, weight=0),
    Backend("web", "work", "10.0.0.3", 80),
]


def seen() -> tuple[ServiceView, ...]:
    """Return the views of the backends, of which one host name has addresses."""
    snapshot = Snapshot.of(7, BACKENDS)
    addresses = {("db.example.com", 5432): ("192.0.2.1", "2001:db8::2")}
    return views_of(snapshot, Update(snapshot, None, diff(None, snapshot), addresses).addresses_of)


def rendered(tmp_path: Path, source: str) -> str:
    """Return the text that a template makes of the views."""
    (tmp_path / "t.j2").write_text(source)
    return Templates((tmp_path,)).render("t.j2", "plain", {"services": Services(seen())})


def test_a_host_name_has_its_addresses_and_ipv6_stands_in_brackets() -> None:
    named, six = seen()[0].all
    assert (named.address, named.host, named.name) == ("192.0.2.1:5432", "192.0.2.1", "db.example.com")
    assert named.addresses == ("192.0.2.1", "2001:db8::2")
    assert six.address == "[2001:db8::1]:5432"


def test_only_backends_that_get_new_connections_are_listed_unless_asked_for() -> None:
    web = seen()[1]
    assert [each.id for each in web.backends] == ["work"]
    assert [each.id for each in web.draining] == ["draining", "idle"]
    assert [each.id for each in web.all] == ["draining", "idle", "work"]


def test_a_missing_service_is_empty_and_a_missing_label_is_empty_text(tmp_path: Path) -> None:
    assert rendered(tmp_path, "{{ services['none'].backends | length }}{{ 'none' in services }}") == "0false"
    assert rendered(tmp_path, "{{ services.db.all[1].labels.zone }}|{{ services.db.all[0].labels.zone }}") == "|a"
    assert rendered(tmp_path, "{{ 'zone' in services.db.all[1].labels }}") == "false"


def test_backends_are_chosen_and_grouped_by_labels(tmp_path: Path) -> None:
    source = "{% for zone, group in services.db.all | by_label('zone') %}{{ zone }}={{ group | length }} {% endfor %}"
    assert rendered(tmp_path, source) == "=1 a=1 "
    assert rendered(tmp_path, "{{ (services.db.all | with_label('zone', 'a', 'b') | first).id }}") == "named"
    assert rendered(tmp_path, "{{ services.db.all | with_label('zone') | length }}") == "1"
