"""How a change would be made: a forecast for previews, from the files and the running HAProxy, without a change."""

from pathlib import Path

from discovery_haproxy.runtime_api.connection import RuntimeApiError, connect
from discovery_haproxy.runtime_api.planner import Plan, ServerKey, make_plan
from discovery_haproxy.runtime_api.read_back import parse_states
from discovery_haproxy.text.configuration import NOTHING, Configuration, Inherited, parse
from discovery_haproxy.text.generation import DESCRIPTION, Marker, generation_of, reload_part
from discovery_haproxy.text.server_line import Server


async def forecast(
    served: str,
    wanted: Configuration,
    stats_socket: Path | None,
    version: tuple[int, ...],
    marker: Marker = DESCRIPTION,
    inherited: Inherited = NOTHING,
) -> str:
    """Return in one line how HAProxy would be changed from the text `served` to `wanted`.

    The running HAProxy is asked through its stats socket. Without an answer the texts and `version` decide. A target
    that has to be tested first, and fails, may make a reload of what is said to need none. `marker` is the line that
    names the generation, `inherited` what the text inherits from other files.
    """
    running = parse(served, inherited)
    waiting: dict[ServerKey, Server | None] = {}
    reason = ""
    if stats_socket is None:
        reason = "no stats socket is configured"
    elif stats_socket.exists():
        try:
            async with connect(stats_socket, marker) as connection:
                worker = await connection.worker()
                states = await connection.ask("show servers state")
            version, waiting = worker.version, _waiting(states, wanted)
            if reload_part(worker.generation) != reload_part(generation_of(served) or ""):
                reason = "HAProxy was reloaded by another program"
        except (RuntimeApiError, ValueError) as error:
            reason = str(error)
    if not reason:
        plan = make_plan(running, wanted, version, waiting)
        if isinstance(plan, Plan):
            return f"through the runtime API, without a reload: {plan.reason}"
        reason = plan.reason
    return f"by a reload: {reason}"


def _waiting(states: str, wanted: Configuration) -> dict[ServerKey, Server | None]:
    """Return the wanted servers that the running HAProxy has not deleted yet. Their options count as unchanged."""
    backends = wanted.backends
    return {
        (section, name): backends[section].server(name)
        for (section, name), row in parse_states(states).items()
        if row.removed and section in backends and name in backends[section].servers
    }
