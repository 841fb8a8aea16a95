"""Clauses: the effect of every kind of state."""

import json
import re
import tomllib
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

from discovery.errors import describe
from discovery.testing.clauses import difference, expect
from discovery.testing.consumers.gentle import MANY_SECONDS, Gentle
from discovery.testing.consumers.states import ALIKE_IDS, HOSTILE_LABELS, MANY, NAME, PLAIN_LABEL, POPULATION
from discovery.testing.support import within

_MOST_REQUESTS = 10
"""Requests to apply in a tenth of a second in which nothing changes; a watched file may ask some times."""
_NAMES = {
    "port": "another port",
    "host": "another host",
    "pair": "two backends",
    "draining": "one of two backends draining",
    "empty": "no backends",
    "rejected": "two backends, and records that the core has refused",
    "labels": "labels",
    "hostile": "labels that look like syntax",
    "ipv6 a": "an IPv6 address",
    "ipv6 b": "an IPv6 address",
    "name a": "a host name with its addresses",
    "name b": "a host name with other addresses",
    "name without address": "a host name without an address",
    "name not looked up": "a host name that nobody has looked up",
    "weight 0": "weight 0",
    "all without weight": "weight 0 of every backend",
    "all draining": "every backend draining",
    "twins": "one id in two services",
    "shared address": "one address in two services",
    "alike ids": "ids that differ in one character",
    "alike services": "services whose names differ in one character",
    **{f"alike {what}": what for what in ALIKE_IDS},
    "many": f"{MANY} backends",
    "odd ids": "unusual ids",
    "limits": "the limits of port, weight and labels",
    "revision": "another revision",
}


def every_state_can_be_applied(seen: Gentle) -> None:
    """A registry may have any valid backend: an apply that raises leaves the consumer at an old state forever."""
    failed = {_NAMES.get(name, name): describe(error) for name, error in seen.errors.items()}
    expect(not failed, "apply to raise nothing, for any valid state of the registry", failed)


def a_backend_that_changes_in_place_takes_effect(seen: Gentle) -> None:
    """A restarted container keeps its id and gets another address: traffic to the old address is lost."""
    _differ(seen, "one", "port", "another port of the same backend")
    _differ(seen, "one", "host", "another host of the same backend")


def each_backend_counts(seen: Gentle) -> None:
    """A second backend of a service serves, too; and the last one that vanishes must get no more work."""
    _differ(seen, "one", "pair", "a second backend")
    _differ(seen, "one", "empty", "no backend")


def a_draining_backend_is_told_apart(seen: Gentle) -> None:
    """A backend drains before the backend stops: new work that is given to it meanwhile is lost."""
    _differ(seen, "pair", "draining", "one of two backends draining")


def weight_0_is_a_weight_of_its_own(seen: Gentle) -> None:
    """Weight 0 means no new connections. 0 is false in Python, so that `weight or 1` makes a whole share of it.

    A consumer that shows no weights at all passes: many programs know none. `Backend.accepts_work` knows both reasons.
    """
    if seen.worlds.get("pair") != seen.worlds.get("weight 5"):  # the consumer knows weights
        _differ(seen, "pair", "weight 0", "weight 0 in place of weight 1")
        _differ(seen, "weight 5", "weight 0", "weight 0 in place of weight 5")


def an_ipv6_address_is_whole_and_in_brackets(seen: Gentle) -> None:
    """`HOST:PORT` is ambiguous for an IPv6 address without brackets, and what is left of its first colon is none."""
    _differ(seen, "ipv6 a", "ipv6 b", "another IPv6 address")
    for name in ("ipv6 a", "ipv6 b"):
        for backend in seen.session.states[name].snapshot.backends():
            bare = f"{backend.host}:{backend.port}"
            for path, text in seen.texts.get(name, {}).items():
                found = re.search(rb"(?<![\[0-9a-f:@])" + re.escape(bare.encode()) + rb"(?![0-9a-f:])", text)
                expect(not found, f"[{backend.host}]:{backend.port}", f"{bare} in {path}")


def the_addresses_of_host_names_take_effect(seen: Gentle) -> None:
    """An address behind a name changes without the registry: `changes` is then empty, and `addresses_of` differs."""
    _same(seen, "name b again", "name b", "the effect of the new addresses although `changes` is empty")


def host_names_are_looked_up_by_the_core(seen: Gentle) -> None:
    """The core looks names up once for all, without blocking, and keeps the last addresses in an outage of DNS."""
    own = [each for each in seen.lookups if NAME in each]
    expect(not own, "no lookup of a host name whose addresses the update has", own)


def one_id_in_two_services_is_two_backends(seen: Gentle) -> None:
    """An id is unique within its service alone: `web/1` and `db/1` are different backends."""
    _differ(seen, "twins", "twins, one moved", "another port of one of two backends with the same id")
    if seen.worlds.get("twin") != seen.worlds.get("twin moved"):  # the consumer follows the other service
        _differ(seen, "twins", "twins, other moved", "another port of the other of two backends with the same id")


def one_address_in_two_services_is_two_backends(seen: Gentle) -> None:
    """A program may serve two services at one port: a table by address loses one of them."""
    worlds = seen.worlds
    if worlds.get("elsewhere") not in (worlds.get("one"), worlds.get("empty")):  # the consumer tells services apart
        _differ(seen, "one", "shared address", "the same address in another service as well")
        _differ(seen, "elsewhere", "shared address", "the same address in another service as well")


def names_that_are_alike_are_different_names(seen: Gentle) -> None:
    """`a-1`, `a.1` and `a_1` are different names, as are `A` and `a`, and long ids that differ in the last character.

    A consumer that replaces characters, ignores case or cuts names off merges them into one.
    """
    for what in ("ids", "services", *ALIKE_IDS):
        if seen.worlds.get(f"alike {what}") != seen.worlds.get("empty"):  # the consumer follows them
            for which in ("first", "last"):
                _differ(seen, f"alike {what}", f"alike {what}, {which} moved", f"another port of the {which} of them")


def a_record_that_was_refused_hurts_itself_alone(seen: Gentle) -> None:
    """Anybody may write nonsense into a registry: `snapshot.rejected` tells of it, and everything else is served."""
    if seen.worlds.get("pair") != seen.worlds.get("draining"):  # the state before "rejected"
        _differ(seen, "draining", "rejected", "other backends beside records that were refused")


def a_state_that_comes_back_has_its_effect_again(seen: Gentle) -> None:
    """The core merges changes, and tells an apply after a failure everything at once: the way to a state is chance."""
    _same(seen, "one", "one again", "the effect that the same state had before other states")


def the_revision_has_no_effect(seen: Gentle) -> None:
    """Most revisions concern other services: an effect of the number is a reload without a cause for each of them."""
    _same(seen, "one again", "revision", "the effect of the same backends at another revision")


def the_order_of_backends_is_a_rule(seen: Gentle) -> None:
    """An order by hash differs between two starts of the daemon, and is a change, or a reload, without a cause."""
    orders = []
    for name, prefix in (("order", "10.11.1."), ("order of others", "10.12.2.")):
        orders.append(
            {path: _order(text.decode(errors="replace"), prefix) for path, text in seen.texts.get(name, {}).items()}
        )
    for path in orders[0].keys() & orders[1].keys() if len(orders) == 2 else ():
        one, other = orders[0][path], orders[1][path]
        if len(one) == len(other) == POPULATION:
            expect(one == other, "backends in an order that their values give", f"{path}: the orders {one} and {other}")


def labels_are_data(seen: Gentle) -> None:
    """Any client of the registry writes labels: taken for syntax, a label changes other services, or runs commands."""
    expect(not seen.marks, "no file that a label names or creates", seen.marks)
    for path, plain in seen.texts.get("labels", {}).items():
        for name in seen.texts:
            if (name == "hostile" or name.startswith("label ")) and path in seen.texts[name]:
                _compare_documents(name, path, plain, seen.texts[name][path])
                if name == "hostile":
                    _compare_quoting(
                        path, plain.decode(errors="replace"), seen.texts[name][path].decode(errors="replace")
                    )


def many_backends_are_applied_in_time(seen: Gentle) -> None:
    """An installation has thousands of backends: a consumer that needs seconds for each change is always behind."""
    limit = within(MANY_SECONDS + 2 * seen.session.apply_seconds)
    if (seconds := seen.seconds.get("many")) is not None:
        expect(seconds <= limit, f"an apply of {MANY} backends within {limit:g} s", f"{seconds:.1f} s")


def each_of_many_backends_counts(seen: Gentle) -> None:
    """A limit that nobody has set takes backends away without a word: an error tells that there are too many."""
    same = f"the same effect for another address of the last of {MANY} backends"
    expect(seen.is_last_of_many_seen, f"an effect of each of {MANY} backends", same)


def the_effect_is_there_when_apply_returns(seen: Gentle) -> None:
    """The core takes the return of `apply` for success, and shows the revision as applied."""
    immediately, later = seen.later
    expect(immediately == later, "no effect after the return of apply", _both(immediately, later))


def an_equal_apply_asks_for_no_other(seen: Gentle) -> None:
    """`request_apply` asks for another apply: a consumer that asks in each `apply` is applied without an end.

    So is a consumer that asks again and again while nothing of its own has changed.
    """
    requests = seen.requests_when_equal
    expect(not requests or 0 in requests, "no request_apply in an apply that changes nothing", f"{requests} requests")
    idle = seen.requests_when_idle
    expect(idle <= _MOST_REQUESTS, "request_apply when an input of its own has changed", f"{idle} requests at rest")


def the_input_is_left_alone(seen: Gentle) -> None:
    """Snapshots and configurations are shared by threads, and the core compares them with later ones."""
    expect(not seen.mutated, "an unchanged update and configuration", f"changed: {sorted(set(seen.mutated))}")


EFFECTS: tuple[Callable[[Gentle], None], ...] = (
    every_state_can_be_applied,
    a_backend_that_changes_in_place_takes_effect,
    each_backend_counts,
    a_draining_backend_is_told_apart,
    weight_0_is_a_weight_of_its_own,
    an_ipv6_address_is_whole_and_in_brackets,
    the_addresses_of_host_names_take_effect,
    host_names_are_looked_up_by_the_core,
    one_id_in_two_services_is_two_backends,
    one_address_in_two_services_is_two_backends,
    names_that_are_alike_are_different_names,
    a_record_that_was_refused_hurts_itself_alone,
    a_state_that_comes_back_has_its_effect_again,
    the_revision_has_no_effect,
    the_order_of_backends_is_a_rule,
    labels_are_data,
    many_backends_are_applied_in_time,
    each_of_many_backends_counts,
    the_effect_is_there_when_apply_returns,
    an_equal_apply_asks_for_no_other,
    the_input_is_left_alone,
)


def _differ(seen: Gentle, one: str, other: str, what: str) -> None:
    if one in seen.worlds and other in seen.worlds:
        same = f"the same effect, {seen.worlds[one]!r}"
        expect(seen.worlds[one] != seen.worlds[other], f"another effect for {what}", same)


def _same(seen: Gentle, one: str, other: str, what: str) -> None:
    if one in seen.worlds and other in seen.worlds:
        expect(seen.worlds[one] == seen.worlds[other], what, _both(seen.worlds[one], seen.worlds[other]))


def _compare_documents(state: str, path: str, plain: bytes, hostile: bytes) -> None:
    """Check that a document of a known format stays a document of that format, without keys that a label has made."""
    for kind, parse in _FORMATS.items():
        try:
            parse(plain)
        except Exception:  # noqa: BLE001, S112 - a parser may raise anything: the file has another format
            continue
        try:
            document = parse(hostile)
        except Exception as error:  # noqa: BLE001
            expect(False, f"a file that is {kind} as with plain labels", f"{path} with {state}: {describe(error)}")
        expect("injected" not in _keys(document), "labels as values", f"{path} with {state}: a label has made a key")


def _compare_quoting(path: str, plain: str, hostile: str) -> None:
    """Check that no label ends the quotes, or the word, in which a file of any other format has the label."""
    for number, value in enumerate(HOSTILE_LABELS.values()):
        word = f"{PLAIN_LABEL}{number:02}x"
        for before, after in (
            ('"', '"'),
            ("'", "'"),
            ("=", " "),
            (" ", " "),
            ("=", ";"),
            (" ", ";"),
            ("=", ","),
            (":", ","),
        ):
            if after in value.strip() and f"{before}{word}{after}" in plain:
                raw = f"{before}{value}{after}" in hostile
                expect(not raw, "a label in quotes, escaped, or left out", f"{path}: {before}{value}{after}")


def _keys(document: object) -> set[object]:
    if isinstance(document, dict):
        return set(document).union(*map(_keys, document.values()))
    return set().union(*map(_keys, document)) if isinstance(document, list) else set()


_FORMATS: dict[str, Callable[[bytes], Any]] = {
    "JSON": json.loads,
    "JSON lines": lambda text: [json.loads(line) for line in text.splitlines()] or json.loads(text),
    "TOML": lambda text: tomllib.loads(text.decode()) or json.loads("an empty file is everything"),
    "XML": ET.fromstring,
}


def _order(text: str, prefix: str) -> list[str]:
    """Return the last parts of the addresses that begin with `prefix`, in the order of their first places."""
    return list(dict.fromkeys(re.findall(re.escape(prefix) + r"(\d+)", text)))


def _both(one: object, other: object) -> str:
    return difference(one, other)
