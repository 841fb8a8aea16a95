"""The records of a domain, computed in the plainest way, to be compared with the zone's."""

import ipaddress
from collections import defaultdict
from fnmatch import fnmatchcase

from discovery import Backend, Snapshot
from discovery_dns.config import DnsConfig

from .asking import DOMAIN, Known

Records = dict[str, dict[str, set[str]]]
"""The data of records by owner, in lower case, and type. An owner without records is one with names below."""


def model(state: Snapshot, known: Known, config: DnsConfig) -> Records:
    """The records of every name of the domain but those of the domain itself.

    The entry `services` has the services with a name, and those without a name for SRV records.
    """
    records: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    served: dict[str, str] = {}
    without_srv: set[str] = set()
    for name in sorted(state.services):
        labels = name.split(".")
        wanted = any(fnmatchcase(name, pattern) for pattern in config.services)
        possible = all(0 < len(each) < 64 for each in labels) and (
            len(labels) == 1 or labels[-1] not in ("addr", "_tcp")
        )
        if not wanted:
            continue
        for each in state.services[name].backends:
            if not each.is_named:
                records[f"{encoded(each.host)}.addr.{DOMAIN}."][family(each.host)].add(each.host)
        if not possible or name.lower() in served:
            continue
        served[name.lower()] = name
        taking = [each for each in state.services[name].backends if each.state == "active" and each.weight]
        taking = taking or list(state.services[name].backends)
        near = [each for each in taking if each.labels["zone"] != "far"] if config.backup else taking
        owner, srv = f"{name}.{DOMAIN}.".lower(), f"_{name}._tcp.{DOMAIN}.".lower()
        resolved = [each for each in taking if addresses(each, known)] or taking
        records[owner]["SRV"] = {record(each, far=config.backup is not None and each not in near) for each in resolved}
        if len(labels[0]) < 63:
            records[srv]["SRV"] = records[owner]["SRV"]
        else:
            without_srv.add(name)
        found = {address for each in near for address in addresses(each, known)}
        for address in found or {address for each in taking for address in addresses(each, known)}:
            records[owner][family(address)].add(address)
    records[f"ns.addr.{DOMAIN}."]["A"].add("127.0.0.1")
    for owner in list(records):
        while (owner := owner.partition(".")[2]) != f"{DOMAIN}.":
            records[owner]  # a name without records
    plain = {owner: dict(kinds) for owner, kinds in records.items()}
    return {**plain, "services": {"served": set(served.values()), "without SRV name": without_srv}}


def record(backend: Backend, *, far: bool) -> str:
    target = f"{backend.host}." if backend.is_named else f"{encoded(backend.host)}.addr.{DOMAIN}."
    return f"{10 if far else 0} {backend.weight} {backend.port} {target}"


def addresses(backend: Backend, known: Known) -> tuple[str, ...]:
    return known.get((backend.host, backend.port), ()) if backend.is_named else (backend.host,)


def family(address: str) -> str:
    return "AAAA" if ":" in address else "A"


def encoded(address: str) -> str:
    return ipaddress.ip_address(address).exploded.replace(":", "-").replace(".", "-")
