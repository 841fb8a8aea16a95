"""The JSON schema of the configuration file, with the options of the installed plugins."""

import types
from collections.abc import Mapping
from typing import Any

from discovery.daemon.config import FileSettings
from discovery.hosting.tables import ConsumerTable, ProviderTable
from discovery.plugin import PluginConfig


def json_schema(
    consumers: Mapping[str, type[PluginConfig]],
    providers: Mapping[str, type[PluginConfig]] = types.MappingProxyType({}),
) -> dict[str, Any]:
    """Return the JSON schema of the configuration file. The arguments are configuration types by the plugin's name."""
    schema = FileSettings.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    kinds = (("consumers", ConsumerTable, consumers), ("providers", ProviderTable, providers))
    for table, core, configs in kinds:
        variants = []
        for name, config in sorted(configs.items()):
            prefix = f"{table}.{name}"
            options = config.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
            definitions |= {f"{prefix}.{key}": value for key, value in options.pop("$defs", {}).items()}
            ours = core.model_json_schema()["properties"]
            options["properties"] = ours | {"plugin": {"const": name}} | options.get("properties", {})
            options["required"] = ["plugin", *options.get("required", ())]
            variants.append(options)
        schema["properties"][table]["additionalProperties"] = {"oneOf": variants} if variants else True
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
