"""The hosts that a route takes, stated apart from the plugin."""

from discovery.routing import HostKind, Route


def takes_host(route: Route, name: str) -> bool:
    """Report whether the route takes requests for the name, in lower case and without a final dot."""
    match route.kind:
        case HostKind.EXACT:
            return name == route.host
        case HostKind.SUFFIX:
            return name.endswith(route.host.removeprefix("*"))
        case HostKind.PREFIX:
            return name.startswith(route.host.removesuffix("*"))
        case HostKind.ANY:
            return True
