"""The result of a run as text: a table, a small chart, and JSON."""

import json
import math
from collections.abc import Sequence

from tutorial.story import UNACKNOWLEDGED, Result

_BARS = " ▁▂▃▄▅▆▇█"
_MOST_COLUMNS = 100


def table(result: Result) -> list[tuple[str, str]]:
    """Return the rows of the table: what was counted, and the count."""
    summary, history = result.summary, result.history
    served = ", ".join(f"{count} by {name}" for name, count in sorted(summary.served.items()))
    return [
        ("requests", str(summary.total)),
        ("served", f"{sum(summary.served.values())} ({served})"),
        ("held, and then served", str(summary.held)),
        ("failed", _failed(summary.failed)),
        ("in flight to a as it lost power", _in_flight(result)),
        ("longest hold", f"{summary.longest_hold:.1f} s ({_limit(result)})"),
        ("etcd ended a's record", _after_the_loss(history.ended)),
        ("the first that was held was answered", _after_the_loss(result.resumed)),
        ("longest time without an answer", f"{summary.longest_gap:.1f} s"),
        ("the service had no backend for", f"{history.absent * 1000:.0f} ms"),
        ("changes of the record after that", str(history.flaps)),
        ("backends beyond the one", str(history.duplicates)),
    ]


def text(result: Result) -> str:
    """Return the table and the chart, for a terminal."""
    rows = table(result)
    width = max(len(name) for name, _ in rows)
    return "\n".join([*(f"{name:<{width}}  {value}" for name, value in rows), "", *chart(result)])


def chart(result: Result) -> list[str]:
    """Return the lines of a chart: answers, and the longest time that a request took, over the seconds of the run."""
    start = result.requests[0].begun
    seconds = int(max(each.ended for each in result.requests) - start) + 1
    step = -(-seconds // _MOST_COLUMNS)
    columns = -(-seconds // step)
    answers, longest = [0.0] * columns, [0.0] * columns
    for each in result.requests:
        began = int(each.begun - start) // step
        longest[began] = max(longest[began], each.seconds)
        if not each.failure:
            answers[int(each.ended - start) // step] += 1
    events = [(int(each.at - start) // step, each.text) for each in result.events if each.at >= start]
    return [
        f"answers        |{_bars(answers)}|  most in a column: {max(answers):.0f}",
        f"longest time   |{_bars(longest)}|  most: {max(longest):.1f} s",
        *(f"{' ' * 15}|{'·' * column}▲{' ' * (columns - column - 1)}|  {name}" for column, name in events),
        f"{' ' * 15} one column: {step} s",
    ]


def document(result: Result) -> str:
    """Return the result as JSON: the counts, the events and the bars, with times in seconds from the first request."""
    start = result.requests[0].begun
    summary, history = result.summary, result.history
    return json.dumps(
        {
            "passed": result.passed,
            "leader_on_a": result.leader,
            "requests": summary.total,
            "served": summary.served,
            "held": summary.held,
            "failed": list(summary.failed),
            "in_flight": summary.in_flight,
            "in_flight_failed": list(summary.in_flight_failed),
            "in_flight_longest": round(summary.in_flight_longest, 3),
            "longest_hold": round(summary.longest_hold, 3),
            "longest_hold_allowed": round(result.limit, 3),
            "longest_hold_met": result.within_limit,
            "longest_gap": round(summary.longest_gap, 3),
            "election": round(result.election, 3),
            "record_ended": _rounded(history.ended),
            "resumed": _rounded(result.resumed),
            "absent": round(history.absent, 3),
            "flaps": history.flaps,
            "duplicates": history.duplicates,
            "events": [{"at": round(each.at - start, 3), "event": each.text} for each in result.events],
        },
        indent=2,
    )


def _failed(reasons: Sequence[str]) -> str:
    return f"{len(reasons)}, the first: {reasons[0]}" if reasons else "0"


def _in_flight(result: Result) -> str:
    summary = result.summary
    if not summary.in_flight:
        return "0"
    ended = f"ended within {summary.in_flight_longest:.1f} s (limit: {UNACKNOWLEDGED:g} s)"
    return f"{summary.in_flight}, of which {len(summary.in_flight_failed)} failed, {ended}"


def _limit(result: Result) -> str:
    met = "met" if result.within_limit else "not met"
    named = "TTL + 2 s + election" if result.leader else "TTL + 1 s"
    return f"at most {named} = {result.limit:.1f} s: {met}"


def _after_the_loss(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s after the loss of power"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _bars(values: Sequence[float]) -> str:
    most = max(values) or 1.0
    # A value that is not zero is seen.
    return "".join(_BARS[math.ceil(value * (len(_BARS) - 1) / most)] for value in values)
