"""Report of a worker about its listeners, backends and connections. Pure."""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from discovery_tcpproxy.worker.proxy import ListenerProxy
from discovery_tcpproxy.worker.stream import Connection
from discovery_tcpproxy.worker.upstream import Upstream, UpstreamState

MOST_CONNECTIONS = 1000
"""Connections that one answer lists: some 200 KiB. The number of the others is reported."""
_UPSTREAM_COUNTERS = ("open", "connected", "connect_failures", "connect_seconds", "received", "sent")


def counters_report(proxies: Iterable[ListenerProxy]) -> dict[str, Any]:
    """Return the counters of all listeners, with the bytes that open connections have carried so far."""
    return {"listeners": {proxy.name: _listener_report(proxy) for proxy in proxies}}


def connections_report(proxies: Iterable[ListenerProxy], now: float) -> dict[str, Any]:
    """Return up to `MOST_CONNECTIONS` connections, in no particular order, and the number of the others."""
    proxies = tuple(proxies)
    every = chain.from_iterable(((proxy, each) for each in proxy.connections) for proxy in proxies)
    some = [_connection_report(proxy, each, now) for proxy, each in islice(every, MOST_CONNECTIONS)]
    return {"connections": some, "more": sum(len(proxy.connections) for proxy in proxies) - len(some)}


def _listener_report(proxy: ListenerProxy) -> dict[str, Any]:
    figures = proxy.counters.as_dict()
    backends = {upstream: {name: getattr(upstream, name) for name in _UPSTREAM_COUNTERS} for upstream in proxy.pool}
    for connection in proxy.connections:
        server = connection.server
        if connection.open and server is not None:
            figures["received"] += connection.client.received
            figures["sent"] += server.received
            upstream = backends.get(connection.upstream) if connection.upstream is not None else None
            if upstream is not None:
                upstream["received"] += server.received
                upstream["sent"] += connection.client.received
    figures["open"] = len(proxy.connections)
    figures["holding"] = proxy.holding
    figures["service"] = proxy.service
    figures["backends"] = {upstream.id: each | _state(upstream) for upstream, each in backends.items()}
    return figures


def _state(upstream: Upstream) -> dict[str, str]:
    """Return the state, and after a failed attempt the reason, which another worker's report does not displace."""
    if upstream.draining or upstream.state is UpstreamState.USABLE or not upstream.reason:
        return {"state": "draining" if upstream.draining else upstream.state.value}
    return {"state": upstream.state.value, "reason": upstream.reason}


def _connection_report(proxy: ListenerProxy, connection: Connection, now: float) -> dict[str, Any]:
    upstream, server, address = connection.upstream, connection.server, connection.server_address
    return {
        "client": list(connection.client_address),
        "listener": proxy.name,
        "service": proxy.service,
        "backend": None if upstream is None else upstream.id,
        "address": None if upstream is None or address is None else list(address),
        "age": round(now - connection.accepted_at, 3),
        "received": connection.client.received,
        "sent": 0 if server is None else server.received,
        "state": proxy.state(connection),
    }
