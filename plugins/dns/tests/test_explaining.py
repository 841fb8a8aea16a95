"""What the consumer tells of single backends, beside what clients are answered."""

from collections.abc import Mapping
from typing import Any

import pytest

from discovery import Backend, LastResort, LeftOut
from discovery.testing import backend
from discovery_dns.config import DnsConfig
from discovery_dns.explaining import lines_of

from .asking import Known, ask, data, responder
from .driving import address, driving, udp

A, B = backend(id="a", host="10.0.0.5", port=8080), backend(id="b", host="2001:db8::1", port=8080, weight=2)
DB = backend("db", id="n", host="db.example.com", port=5432)


def told(backends: tuple[Backend, ...], known: Known | None = None, **options: Any) -> Mapping[str, Any]:
    """What is told of each of the backends, by its id."""
    zone = responder(backends, known, **options).zone
    assert zone is not None
    return {
        key.partition("/")[2]: lines
        for key, lines in lines_of(zone, DnsConfig.model_validate(options), backends).items()
    }


async def test_the_names_and_records_of_a_backend_are_those_of_the_answers() -> None:
    bind = address()
    async with driving(listen=bind) as driven:
        assert driven.consumer.explain([A]) == {}, "nothing is known before the first snapshot"
        await driven.apply(A, B)
        explained = driven.consumer.explain([A, B])
        assert explained == {
            "web/a": (
                "web.service.internal. 5 IN A 10.0.0.5",
                "_web._tcp.service.internal. 5 IN SRV 0 1 8080 10-0-0-5.addr.service.internal.",
                "10-0-0-5.addr.service.internal. 5 IN A 10.0.0.5",
            ),
            "web/b": (
                "web.service.internal. 5 IN AAAA 2001:db8::1",
                (
                    "_web._tcp.service.internal. 5 IN SRV 0 2 8080"
                    " 2001-0db8-0000-0000-0000-0000-0000-0001.addr.service.internal."
                ),
                "2001-0db8-0000-0000-0000-0000-0000-0001.addr.service.internal. 5 IN AAAA 2001:db8::1",
            ),
        }
        for line in (line for lines in explained.values() for line in lines):
            name, _, _, kind, record = line.split(maxsplit=4)
            assert record in data(await udp(bind, name, kind)), line


def test_who_drains_stands_in_no_answer_unless_all_do() -> None:
    drains = backend(id="d", host="10.0.0.6", state="draining")
    assert told((A, drains))["d"] == (
        "10-0-0-6.addr.service.internal. 5 IN A 10.0.0.6",
        (
            "web.service.internal. has it in no answer with A, AAAA or SRV records:"
            " it gets no new work, and other backends of the service do"
        ),
    )
    assert told((drains,))["d"][0] == "web.service.internal. 5 IN A 10.0.0.6"


def test_the_last_backends_are_told_to_be_used_although_they_drain() -> None:
    drains = backend(id="d", host="10.0.0.5", port=8080, state="draining")
    idle = backend(id="i", host="10.0.0.7", weight=0)
    assert {id_: isinstance(lines, LastResort) for id_, lines in told((drains, idle)).items()} == {"d": True, "i": True}
    assert not any(isinstance(lines, LastResort) for lines in told((A, drains, idle)).values()), "A has its address"
    assert not isinstance(told((A,))["a"], LastResort)
    lost = backend("db", id="n", host="db.example.com", port=5432, state="draining")
    other = backend("db", id="o", host="10.0.0.9", state="draining")
    found = told((lost, other))
    assert (isinstance(found["n"], LastResort), isinstance(found["o"], LastResort)) == (False, True), "n has no record"


def test_a_host_name_stands_with_its_addresses_and_without_them_in_no_answer_with_addresses() -> None:
    known = {("db.example.com", 5432): ("192.0.2.1", "2001:db8::2")}
    assert told((DB,), known)["n"] == (
        "db.service.internal. 5 IN A 192.0.2.1",
        "db.service.internal. 5 IN AAAA 2001:db8::2",
        "_db._tcp.service.internal. 5 IN SRV 0 1 5432 db.example.com.",
    )
    why = "no address is known for db.example.com"
    assert told((DB,))["n"] == (
        "_db._tcp.service.internal. 5 IN SRV 0 1 5432 db.example.com.",
        f"db.service.internal. has it in no answer with A or AAAA records: {why}",
    )
    other = backend("db", id="o", host="10.0.0.9")
    assert told((DB, other))["n"] == (f"db.service.internal. has it in no answer with A, AAAA or SRV records: {why}",)


def test_a_backup_has_an_srv_record_and_no_address_while_others_have_one() -> None:
    zones = {"backup": {"label": "zone", "not": "eu-1"}}
    here = backend(id="here", host="10.0.0.1", labels={"zone": "eu-1"})
    there = backend(id="there", host="10.0.0.2", labels={"zone": "eu-2"})
    assert told((here, there), **zones)["there"] == (
        "_web._tcp.service.internal. 5 IN SRV 10 1 8080 10-0-0-2.addr.service.internal.",
        "10-0-0-2.addr.service.internal. 5 IN A 10.0.0.2",
        (
            "web.service.internal. has it in no answer with A or AAAA records:"
            " it is a backup, and a backend that is none has an address"
        ),
    )
    assert told((there,), **zones)["there"][0] == "web.service.internal. 5 IN A 10.0.0.2"


def test_backends_that_take_turns_are_told_to() -> None:
    backends = tuple(backend(id=f"b{number}", host=f"10.0.0.{number + 1}") for number in range(3))
    turns = "web.service.internal. has at most 2 records in an answer: the backends take turns"
    assert [lines[-1] for lines in told(backends, max_answers=2).values()] == [turns] * 3
    assert not any(turns in lines for lines in told(backends, max_answers=3).values())


@pytest.mark.parametrize(
    ("service", "others", "options", "reason"),
    [
        ("web", (), {"services": ["api", "db-*"]}, "its option 'services' selects api, db-*"),
        ("web", ("Web",), {}, "domain names ignore case, and the service 'Web' has the name"),
        ("x" * 64, (), {}, "64 characters, and a label has 63"),
        ("x.addr", (), {}, "are those of addresses"),
    ],
)
def test_a_service_without_a_name_is_left_out_with_the_reason(
    service: str, others: tuple[str, ...], options: dict[str, Any], reason: str
) -> None:
    left_out, *there = backend(service, id="left-out"), *(backend(each, id="there") for each in others)
    found = told((left_out, *there), **options)
    assert isinstance(found["left-out"], LeftOut)
    assert reason in found["left-out"].reason
    assert not found["left-out"]
    assert all(found[each.id] for each in there)


def test_a_service_without_a_name_for_srv_records_has_them_at_its_own() -> None:
    service = "x" * 63
    answering = responder([backend(service, id="a", host="10.0.0.1")])
    assert answering.zone is not None
    lines = lines_of(answering.zone, DnsConfig(), [backend(service, id="a", host="10.0.0.1")])[f"{service}/a"]
    assert lines[1] == f"{service}.service.internal. 5 IN SRV 0 1 8080 10-0-0-1.addr.service.internal."
    assert data(ask(answering, service, "SRV")) == ["0 1 8080 10-0-0-1.addr.service.internal."]
