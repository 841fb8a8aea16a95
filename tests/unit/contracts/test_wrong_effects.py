"""The contract of consumers finds every consumer with a wrong effect. Each class is named after its fault."""

import json
import random
import socket
import string
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from sound_consumers import Table, TableContract
from wrong_plugins import faults, message, messages

from discovery import Backend, Consumer, State, Update

KINDS = "test_every_kind_of_backend_is_followed"
WAY = "test_the_way_to_a_state_does_not_matter"


class Rows(Table):
    """Writes chosen rows."""

    def chosen(self, update: Update) -> Iterable[Backend]:
        return update.snapshot.backends()

    def rows(self, update: Update) -> list[dict[str, Any]]:
        return [self.row(update, backend) for backend in self.chosen(update)]


class IgnoresUpdatedBackends(Rows):
    known: ClassVar[Any] = None

    async def apply(self, update: Update) -> None:
        if update.previous is None:
            self.known = {}
        for each in update.changes.removed:
            self.known.pop(each.key, None)
        self.known.update({each.key: each for each in update.changes.added})
        await super().apply(update)

    def chosen(self, update: Update) -> Iterable[Backend]:
        return sorted((self.known or {}).values(), key=lambda each: each.key)


class KeysByAddress(Rows):
    def chosen(self, update: Update) -> Iterable[Backend]:
        return {each.host: each for each in update.snapshot.backends()}.values()


class IgnoresDraining(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        return super().row(update, replace(backend, state=State.ACTIVE))


class TakesWeightZeroForNoWeight(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        return super().row(update, replace(backend, weight=backend.weight or 1))


class DividesByTheSumOfWeights(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        total = sum(each.weight for each in update.snapshot.services[backend.service].backends)
        return {**super().row(update, backend), "share": backend.weight / total}


class NeedsAnActiveBackend(Table):
    def text(self, update: Update) -> str:
        for service in update.snapshot.services.values():
            next(each for each in service.backends if each.state is State.ACTIVE)
        return super().text(update)


class FormatsLabels(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        template = "".join(f"{name}={value} " for name, value in backend.labels.items())
        return {**super().row(update, backend), "text": template.format(id=backend.id)}


class SubstitutesLabels(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        text = string.Template(" ".join(backend.labels.values())).substitute(id=backend.id)
        return {**super().row(update, backend), "text": text}


class WritesJsonByHand(Table):
    def text(self, update: Update) -> str:
        rows = [
            f'{{"id": "{each.id}", "at": "{each.address}", "is": "{each.state}", "zone": "{each.labels.get("zone")}"}}'
            for each in update.snapshot.backends()
        ]
        return "[" + ", ".join(rows) + "]"


class QuotesLabelsByHand(Table):
    def text(self, update: Update) -> str:
        rows = [
            f"{each.key} {each.address} {each.weight} {each.state} "
            + "; ".join(f'set {name} "{value}"' for name, value in sorted(each.labels.items()))
            for each in update.snapshot.backends()
        ]
        return "".join(f"{row}\n" for row in rows)


class WritesLabelsAsWords(Table):
    def text(self, update: Update) -> str:
        rows = [
            f"{each.key} {' '.join(f'{name}={value}' for name, value in each.labels.items())} "
            f"{each.address} {each.weight} {each.state}"
            for each in update.snapshot.backends()
        ]
        return "".join(f"{row}\n" for row in rows)


class RunsLabelsInAShell(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        for value in backend.labels.values():
            if "touch" in value:
                subprocess.run(["sh", "-c", f"echo {value}"], check=False, capture_output=True)
        return super().row(update, backend)


class NamesFilesAfterLabels(Table):
    async def apply(self, update: Update) -> None:
        await super().apply(update)
        for backend in update.snapshot.backends():
            if rack := backend.labels.get("rack"):
                path = self.context.run_dir / rack
                if path.parent.is_dir() and not path.is_dir():
                    path.write_text(backend.address)


class NeedsANumberInALabel(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        return {**super().row(update, backend), "priority": int(backend.labels.get("priority", "0"))}


class EncodesAsAscii(Table):
    def text(self, update: Update) -> str:
        return json.dumps(self.rows(update), ensure_ascii=False).encode("ascii").decode()


class WritesIpv6WithoutBrackets(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        return {**super().row(update, backend), "at": f"{backend.host}:{backend.port}"}


class CutsTheAddressAtAColon(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        host = backend.address.split(":")[0]
        return {**super().row(update, backend), "addresses": [host]}


class KnowsIpv4Alone(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        if not backend.is_named:
            socket.inet_aton(backend.host)
        return super().row(update, backend)


class TakesTheFirstAddress(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        return {**super().row(update, backend), "addresses": update.addresses_of(backend)[0]}


class LooksNamesUpItself(Table):
    def row(self, update: Update, backend: Backend) -> dict[str, Any]:
        if backend.is_named:
            with suppress(OSError):
                socket.getaddrinfo(backend.host, backend.port)
        return super().row(update, backend)


class ReliesOnChanges(Table):
    async def apply(self, update: Update) -> None:
        if update.previous is None or update.changes:
            await super().apply(update)


class RefusesAnEmptySnapshot(Table):
    def text(self, update: Update) -> str:
        assert update.snapshot.services, "no services"
        return super().text(update)


class KeepsTheLastBackends(Table):
    async def apply(self, update: Update) -> None:
        if update.snapshot.services:
            await super().apply(update)


class KeysById(Rows):
    def chosen(self, update: Update) -> Iterable[Backend]:
        return {each.id: each for each in update.snapshot.backends()}.values()


class WritesTheRevision(Table):
    def text(self, update: Update) -> str:
        return f"{super().text(update)}// {update.snapshot.revision}\n"


class WritesTheTime(Table):
    def text(self, update: Update) -> str:
        return f"{super().text(update)}// {time.time()}\n"


class WritesARandomOrder(Rows):
    def chosen(self, update: Update) -> Iterable[Backend]:
        found = [*update.snapshot.backends()]
        random.shuffle(found)
        return found


class OrdersByHash(Rows):
    def chosen(self, update: Update) -> Iterable[Backend]:
        return sorted(update.snapshot.backends(), key=lambda each: hash(each.address))


class WritesASet(Rows):
    def rows(self, update: Update) -> list[dict[str, Any]]:
        rows = {json.dumps(self.row(update, each)) for each in update.snapshot.backends()}
        return [json.loads(row) for row in rows]


FAULTS = (
    (IgnoresUpdatedBackends, KINDS, "a backend that changes in place takes effect"),
    (KeysByAddress, KINDS, "one id in two services is two backends"),
    (IgnoresDraining, KINDS, "a draining backend is told apart"),
    (TakesWeightZeroForNoWeight, KINDS, "weight 0 is a weight of its own"),
    (DividesByTheSumOfWeights, KINDS, "every state can be applied"),
    (NeedsAnActiveBackend, KINDS, "every state can be applied"),
    (FormatsLabels, KINDS, "every state can be applied"),
    (SubstitutesLabels, KINDS, "every state can be applied"),
    (WritesJsonByHand, KINDS, "labels are data"),
    (QuotesLabelsByHand, KINDS, "labels are data"),
    (WritesLabelsAsWords, KINDS, "labels are data"),
    (RunsLabelsInAShell, KINDS, "labels are data"),
    (NamesFilesAfterLabels, KINDS, "labels are data"),
    (NeedsANumberInALabel, KINDS, "every state can be applied"),
    (EncodesAsAscii, KINDS, "every state can be applied"),
    (WritesIpv6WithoutBrackets, KINDS, "an ipv6 address is whole and in brackets"),
    (CutsTheAddressAtAColon, KINDS, "an ipv6 address is whole and in brackets"),
    (KnowsIpv4Alone, KINDS, "every state can be applied"),
    (TakesTheFirstAddress, KINDS, "every state can be applied"),
    (LooksNamesUpItself, KINDS, "host names are looked up by the core"),
    (ReliesOnChanges, KINDS, "the addresses of host names take effect"),
    (RefusesAnEmptySnapshot, KINDS, "every state can be applied"),
    (KeepsTheLastBackends, WAY, "the order of changes does not matter"),
    (KeysById, KINDS, "one id in two services is two backends"),
    (WritesTheRevision, KINDS, "the revision has no effect"),
    (WritesTheTime, "test_applying_twice_is_applying_once", "applying twice is applying once"),
    (WritesARandomOrder, KINDS, "the order of backends is a rule"),
    (OrdersByHash, KINDS, "the order of backends is a rule"),
    (WritesASet, KINDS, "the order of backends is a rule"),
)


@faults(*FAULTS)
def test_a_wrong_effect_is_found(wrong: type[Consumer[Any]], test: str, clause: str) -> None:
    assert clause in message(TableContract, test, consumer=wrong)


@pytest.mark.exhaustive
@faults(*FAULTS)
def test_the_whole_contract_finds_a_wrong_effect(wrong: type[Consumer[Any]], test: str, clause: str) -> None:
    found = messages(TableContract, consumer=wrong)
    assert found
    assert all("breaks the clause" in each for each in found)
