"""The addresses and host names of all backends, counted: which are in use, and which services have them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from discovery import Addresses, Backend, Endpoint


class Hosts:
    """The addresses and host names of the backends that were added. From one thread."""

    def __init__(self, on_added: Callable[[str], None], on_removed: Callable[[str], None]) -> None:
        """Create an empty set. `on_added` is called with each IP address that comes into use, `on_removed` after."""
        self._on_added, self._on_removed = on_added, on_removed
        self._hosts: dict[str, str] = {}  # IP addresses by the keys of backends
        self._uses: Counter[str] = Counter()  # of IP addresses
        self._left: list[str] = []  # IP addresses that backends have had
        self._endpoints: dict[str, Endpoint] = {}  # host names by the keys of backends
        self._named: defaultdict[str, Counter[Endpoint]] = defaultdict(Counter)  # uses by service

    def put(self, backend: Backend) -> None:
        """Add a backend, in place of the backend with the same key."""
        self.remove(backend)
        if backend.is_named:
            self._endpoints[backend.key] = endpoint = (backend.host, backend.port)
            self._named[backend.service][endpoint] += 1
            return
        self._hosts[backend.key] = backend.host
        self._uses[backend.host] += 1
        if self._uses[backend.host] == 1:
            self._on_added(backend.host)

    def remove(self, backend: Backend) -> None:
        """Remove the backend with this key, if there is any, whatever its host is."""
        host = self._hosts.pop(backend.key, None)
        if host is not None:
            self._left.append(host)
        endpoint = self._endpoints.pop(backend.key, None)
        if endpoint is not None:
            endpoints = self._named[backend.service]
            endpoints[endpoint] -= 1
            if not endpoints[endpoint]:
                del endpoints[endpoint]
            if not endpoints:
                del self._named[backend.service]

    def let_go(self) -> Iterator[None]:
        """Let go of each IP address that no backend has any more, and yield after each; until then all are in use."""
        while self._left:
            host = self._left.pop()
            self._uses[host] -= 1
            if not self._uses[host]:
                del self._uses[host]
                self._on_removed(host)
            yield

    def services_with_changes(self, before: Addresses, now: Addresses) -> Iterator[str]:
        """Yield the services with a host name whose addresses differ."""
        if before is now:
            return
        for service, endpoints in self._named.items():
            if any(before.get(each, ()) != now.get(each, ()) for each in endpoints):
                yield service
