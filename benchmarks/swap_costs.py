"""What a change and a death cost the clients of each proxy, and how long they take; writes the table of the docs.

Each proxy runs in `discovery run` with the same configuration but for the word `plugin`, and serves two HTTP servers
while clients ask again and again, on new connections and on kept ones. Backends come, drain and go; then one dies, and
leaves the registry (a directory) afterwards. The table goes into docs/swapping.md with --write.

    python benchmarks/swap_costs.py [--changes N] [--only PLUGIN ...] [--write] [--json]
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from discovery import ConfigError
from discovery.system.embedded import find_program

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests/support"), str(ROOT / "plugins/xds/tests/support")]

from daemons import Starter  # noqa: E402 - the tests' own, which are no package
from envoy_program import cached  # noqa: E402
from swapping import PROXIES, Costs, Proxy, Scene, change, fail_over  # noqa: E402

PAGE = ROOT / "docs/swapping.md"
MACHINE = f"{os.cpu_count()} cores, shared with other work: the load is that at the time of the row."
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"


@contextmanager
def scene(proxy: Proxy) -> Iterator[Scene]:
    """A daemon with this proxy, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="swap-") as directory:
        starter = Starter(Path(directory))
        try:
            with Scene(proxy, starter).running() as running:
                yield running
        finally:
            for daemon in starter.started:
                daemon.stop()


def is_missing(proxy: Proxy) -> bool:
    """Return True, and tell why, if a program of the proxy is missing."""
    try:
        for program in proxy.programs:
            find_program(program)
        if proxy.plugin == "xds" and not os.access(cached(), os.X_OK):
            raise ConfigError("Envoy is not installed: run `make envoy`")
    except ConfigError as error:
        print(f"{proxy.plugin} is left out: {error}", file=sys.stderr)
        return True
    return any(find_spec(module) is None for module in proxy.wheels)


def row(proxy: Proxy, changes: Costs, death: Costs, rounds: int, load: float) -> str:
    """Return the row of the table."""
    cells = (
        f"{proxy.title} (`{proxy.plugin}`)",
        f"{changes.joined * 1000:.0f} ms",
        f"{changes.left * 1000:.0f} ms",
        f"{changes.lost} + {changes.lost_kept} of {changes.requests} in {rounds} changes",
        f"{death.lost} + {death.lost_kept} of {death.requests}",
        f"{load:.0f}",
        proxy.cannot or "-",
    )
    return f"| {' | '.join(cells)} |"


def table(rows: Iterable[str]) -> str:
    """Return the table with its header."""
    head = (
        "| proxy | a new backend is asked after | a draining one no more after | lost at changes | lost at a death |"
        " load | cannot |"
    )
    return "\n".join((head, "|---|---|---|---|---|---|---|", *rows, ""))


def main() -> None:
    """Run, and print the table or JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--only", nargs="*", default=[each.plugin for each in PROXIES])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, dict[str, object]] = {}
    rows: dict[str, str] = {}
    for proxy in PROXIES:
        if proxy.plugin not in options.only or is_missing(proxy):
            continue
        with scene(proxy) as running:
            changes = change(running, options.changes)
            death = fail_over(running)
        load = os.getloadavg()[0]
        figures[proxy.plugin] = {"changes": changes._asdict(), "death": death._asdict(), "load": load}
        rows[proxy.title] = row(proxy, changes, death, options.changes, load)
        for failure in {*changes.failures, *death.failures}:
            print(f"{proxy.plugin}: {failure}", file=sys.stderr)
    if options.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        rows = {**dict(re.findall(r"^(?=\| ([^|`]+) \()(.*)$", rest, re.MULTILINE)), **rows}
        rows = {each.title: rows[each.title] for each in PROXIES if each.title in rows}
        PAGE.write_text(before + BEGIN + table(rows.values()) + f"\n{MACHINE}\n" + END + rest.partition(END)[2])
    print(json.dumps(figures) if options.json else table(rows.values()), end="\n" if options.json else "")


if __name__ == "__main__":
    main()
