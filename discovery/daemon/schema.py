"""The JSON schema of the configuration file, with the options of the installed plugins."""

import types
from collections.abc import Mapping
from typing import Any

from discovery.daemon.settings import FileSettings
from discovery.hosting.tables import ConsumerTable, ProviderTable
from discovery.plugin import PluginConfig


def json_schema(
    consumers: Mapping[str, type[PluginConfig]],
    providers: Mapping[str, type[PluginConfig]] = types.MappingProxyType({}),
    registries: Mapping[str, type[PluginConfig]] = types.MappingProxyType({}),
) -> dict[str, Any]:
    """Return the JSON schema of the configuration file.

    The arguments are configuration types by the plugin's name, and for registries by the scheme.
    """
    schema = FileSettings.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    for scheme, config in sorted(registries.items()):
        options = _schema_of(config, f"registry.{scheme}", definitions)
        # Which of these options are required, and known, depends on the URL.
        definitions["RegistrySettings"]["properties"] |= options.get("properties", {})
    kinds = (("consumers", ConsumerTable, consumers), ("providers", ProviderTable, providers))
    for table, core, configs in kinds:
        variants = []
        ours = _schema_of(core, table, definitions)["properties"]
        for name, config in sorted(configs.items()):
            options = _schema_of(config, f"{table}.{name}", definitions)
            options["properties"] = ours | {"plugin": {"const": name}} | options.get("properties", {})
            options["required"] = ["plugin", *options.get("required", ())]
            variants.append(options)
        schema["properties"][table]["additionalProperties"] = {"oneOf": variants} if variants else True
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _schema_of(config: type[PluginConfig], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a type, and add the types that it refers to, named with `prefix`, to `definitions`."""
    schema = config.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    definitions |= {f"{prefix}.{key}": value for key, value in schema.pop("$defs", {}).items()}
    return schema
