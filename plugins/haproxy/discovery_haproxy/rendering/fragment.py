"""The services of a fragment, which depend on the other files that HAProxy loads. Pure functions.

`problems` gets a line for a person for each thing that is not as configured.
"""

from collections.abc import Mapping

from discovery.fields import is_service_name
from discovery_haproxy.options.config import HAProxyConfig, ServiceConfig
from discovery_haproxy.text.neighbours import Neighbours


def services_beside(
    configs: Mapping[str, ServiceConfig], neighbours: Neighbours, problems: list[str]
) -> dict[str, ServiceConfig]:
    """Return the services of a fragment: also those that other files name, and none that other files define."""
    found = dict(configs)
    for name in sorted(configs.keys() & neighbours.defined.keys()):
        problems.append(f"service {name!r} is left out: {neighbours.defined[name]} has a section of that name")
        del found[name]
    for name, mode in neighbours.named.items():
        if config := _named(name, mode, found.get(name)):
            found[name] = config
    return found


def defaults_by_mode(
    configs: Mapping[str, ServiceConfig], neighbours: Neighbours, problems: list[str]
) -> dict[str, str]:
    """Return the name of the `defaults` section that the services of a mode inherit from, if that is not the last."""
    found: dict[str, str] = {}
    for mode in sorted({config.mode for config in configs.values()}):
        defaults = neighbours.defaults.get(mode)
        if defaults is None or defaults.last:
            continue
        found[mode] = defaults.name
        if not defaults.name:
            members = ", ".join(sorted(name for name, config in configs.items() if config.mode == mode))
            problems.append(
                f"the services of mode {mode} ({members}) do not inherit from the `defaults` of mode {mode} at"
                f" {defaults.place}, but from a later one: give the former a name, and they do"
            )
    return found


def lines_of_a_fragment(config: HAProxyConfig) -> tuple[str, ...]:
    """Return the lines that each section of a fragment has instead of a `defaults` section.

    HAProxy then starts although a host name cannot be resolved, and takes no port from a file of saved states.
    """
    retries = (f"retries {config.retries}",) if "retries" in config.model_fields_set else ()
    return (
        "option redispatch 1",
        *retries,
        "load-server-state-from-file none",
        "default-server init-addr last,none",
    )


def missing_server_line(name: str) -> str:
    """Return the line of a server that other files name, and that is not registered: a server in maintenance."""
    return f"    server {name} 127.0.0.1:1 disabled\n"


def _named(name: str, mode: str, config: ServiceConfig | None) -> ServiceConfig | None:
    """Return the options of a service that another file's section, which has this mode, names; None for no change."""
    if config is None:
        return ServiceConfig(mode="tcp" if mode == "tcp" else "http") if is_service_name(name) else None
    return ServiceConfig(mode="tcp") if config == ServiceConfig() and mode == "tcp" else None
