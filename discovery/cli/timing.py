"""Durations for a person. Pure."""


def duration(seconds: float) -> str:
    """Return `seconds` in at most two units: `350ms`, `3.2s`, `2m05s`, `3h20m`, `4d06h`."""
    if seconds < 1:
        return f"{1000 * max(0.0, seconds):.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes}m{int(seconds) % 60:02d}s"
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60:02d}h"
