"""`--set INSTANCE.KEY[.KEY...]=VALUE`: one key of an instance, laid over the tables of a configuration. Pure."""

import datetime as dt
import tomllib
from typing import Any

from discovery.errors import ConfigError


def assign(instances: dict[str, dict[str, Any]], assignment: str) -> None:
    """Lay an assignment `--set INSTANCE.KEY[.KEY...]=VALUE` over the tables of instances. Raises ConfigError."""
    instance, *path, last, value = _split_assignment(assignment)
    kind = next((kind for kind, tables in instances.items() if instance in tables), None)
    if kind is None:
        known = ", ".join(name for tables in instances.values() for name in tables) or "none; add it with --plugin"
        raise ConfigError(f"--set {assignment}: there is no instance {instance!r}; there are: {known}")
    table = instances[kind][instance]
    if not isinstance(table, dict):
        del instances[kind][instance]  # one fault, reported once
        raise ConfigError(f"--set {assignment}: {kind}.{instance} is no table")
    for key in path:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {assignment}: {key} is no table")
    table[last] = value


def _split_assignment(assignment: str) -> tuple[Any, ...]:
    # A quoted key may hold a "=", so the key ends at the first "=" before which TOML sees a whole key.
    for place, character in enumerate(assignment):
        if character != "=" or "\n" in assignment[:place]:
            continue
        try:
            tree = tomllib.loads(f"{assignment[:place]} = 0")
        except tomllib.TOMLDecodeError:
            continue
        keys = []
        node: Any = tree
        while isinstance(node, dict):
            key, node = next(iter(node.items()))
            keys.append(key)
        if len(keys) > 1:
            return (*keys, _value(assignment[place + 1 :]))
        break
    raise ConfigError(
        f"--set {assignment}: write INSTANCE.KEY[.KEY...]=VALUE, for example haproxy.services.web.bind=0.0.0.0:80"
    )


def _value(text: str) -> Any:
    """Return the value of TOML that the text is, else the text itself."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except ValueError:  # not TOML, or a whole number of over 4,300 digits
        return text
    value = tree["value"]
    return text if len(tree) > 1 or isinstance(value, dt.date | dt.time) else value
