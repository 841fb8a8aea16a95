"""The Collector of OpenTelemetry, built once from its Go modules: `make collector` runs this file."""

import sys
from pathlib import Path

from go_toolchain import build_once, run

from discovery.errors import DiscoveryError

BUILT = "0.165.0"
NAME = f"otelcol-{BUILT}"
"""The name of the program in the cache."""
_MODULE = "go.opentelemetry.io/collector"
_PARTS = ("otelcol", "receiver/otlpreceiver", "exporter/otlphttpexporter", "service/telemetry/otelconftelemetry")
_MAIN = f"""
package main

import (
	"log"

	"{_MODULE}/component"
	"{_MODULE}/confmap"
	"{_MODULE}/confmap/provider/fileprovider"
	"{_MODULE}/exporter"
	"{_MODULE}/exporter/otlphttpexporter"
	"{_MODULE}/otelcol"
	"{_MODULE}/receiver"
	"{_MODULE}/receiver/otlpreceiver"
	"{_MODULE}/service/telemetry/otelconftelemetry"
)

func factories() (made otelcol.Factories, err error) {{
	if made.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory()); err != nil {{
		return
	}}
	made.Telemetry = otelconftelemetry.NewFactory()
	made.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](otlphttpexporter.NewFactory())
	return
}}

func main() {{
	resolver := confmap.ResolverSettings{{
		DefaultScheme:     "file",
		ProviderFactories: []confmap.ProviderFactory{{fileprovider.NewFactory()}},
	}}
	command := otelcol.NewCommand(otelcol.CollectorSettings{{
		BuildInfo:              component.BuildInfo{{Command: "otelcol", Version: "{BUILT}"}},
		Factories:              factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{{ResolverSettings: resolver}},
	}})
	if err := command.Execute(); err != nil {{
		log.Fatal(err)
	}}
}}
"""
"""The Collector with one receiver and one exporter, as its own builder would write it: with all it takes far longer."""


def build(*, install_go: bool = False) -> Path:
    """The built program; see `build_once`."""
    return build_once(NAME, _make, install_go=install_go, command="make collector")


def _make(go: Path, directory: Path) -> Path:
    source = directory / "source"
    source.mkdir()
    source.joinpath("main.go").write_text(_MAIN)
    run(go, source, "mod", "init", "build")
    run(go, source, "get", *(f"{_MODULE}/{each}@v{BUILT}" for each in _PARTS))
    run(go, source, "mod", "tidy")
    run(go, source, "build", "-o", str(directory / "otelcol"), ".")
    return directory / "otelcol"


if __name__ == "__main__":
    try:
        print(build(install_go=True))
    except DiscoveryError as error:
        sys.exit(str(error))
