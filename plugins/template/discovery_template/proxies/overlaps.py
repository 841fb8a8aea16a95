"""Patterns of hosts that programs with one section for each pattern cannot tell apart."""

from discovery.routing import ROOT, HostKind, Route, group_by_address
from discovery_template.options.proxy import ProxyConfig, claims_of
from discovery_template.proxies.sections import patterns_over


def overlap(config: ProxyConfig) -> str | None:
    """Return why two patterns cannot stand side by side, and the way out; None if all can.

    A host such as `x.a.com` is one of `*.a.com` and of `x.*`. If `*.a.com` takes some paths alone, then the other paths
    of that host would belong to `x.*`, but the program has chosen the section of `*.a.com` by then.
    """
    for address, claims in group_by_address(claims_of(config)).items():
        kinds = {host: Route(host, ROOT, "").kind for claim in claims for host in claim.hosts}
        prefixes = sorted(host for host, kind in kinds.items() if kind is HostKind.PREFIX)
        for host in sorted(host for host, kind in kinds.items() if kind is HostKind.SUFFIX):
            takes_all = any(
                other in patterns_over(host) and kinds[other] is HostKind.SUFFIX
                for claim in claims
                if not claim.prefixes or ROOT in claim.prefixes
                for other in claim.hosts
            )
            if prefixes and not takes_all:
                return (
                    f"the hosts {host!r} and {prefixes[0]!r} overlap on {address}, and {host!r} takes some paths alone:"
                    f" name the host itself, give {host!r} the path /, or use the consumer 'haproxy'"
                )
    return None
