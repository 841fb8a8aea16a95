"""CoreDNS with the plugins of our documentation, built once from its Go module: `make coredns` runs this file."""

import sys
from pathlib import Path

from go_toolchain import build_once, run

from discovery.errors import DiscoveryError

BUILT = "1.14.7"
NAME = f"coredns-{BUILT}"
"""The name of the program in the cache."""
_MODULE = "github.com/coredns/coredns"
_PLUGINS = ("bind", "errors", "loadbalance", "cache", "forward")  # in the order in which CoreDNS calls them
_MAIN = f"""
package main

import (
	"{_MODULE}/core/dnsserver"
	"{_MODULE}/coremain"
	{"".join(f'_ "{_MODULE}/plugin/{each}"; ' for each in _PLUGINS)}
)

func main() {{
	dnsserver.Directives = []string{{{", ".join(f'"{each}"' for each in _PLUGINS)}}}
	coremain.Run()
}}
"""
"""CoreDNS with all of its plugins, those of Kubernetes and of clouds included, takes ten times as long to build."""


def build(*, install_go: bool = False) -> Path:
    """The built program; see `build_once`."""
    return build_once(NAME, _make, install_go=install_go, command="make coredns")


def _make(go: Path, directory: Path) -> Path:
    source = directory / "source"
    source.mkdir()
    source.joinpath("main.go").write_text(_MAIN)
    run(go, source, "mod", "init", "build")
    run(go, source, "get", f"{_MODULE}@v{BUILT}")
    run(go, source, "mod", "tidy")
    run(go, source, "build", "-o", str(directory / "coredns"), ".")
    return directory / "coredns"


if __name__ == "__main__":
    try:
        print(build(install_go=True))
    except DiscoveryError as error:
        sys.exit(str(error))
