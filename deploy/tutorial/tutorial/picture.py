"""The result of a run as a picture: each request as a line from its beginning to its answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from tutorial.outcomes import Request, is_in_flight
from tutorial.report import table
from tutorial.story import Result

_SIZE = (1400, 900)
_PLOT = (90, 70, 1360, 520)
"""Left, top, right and bottom of the plot, in pixels."""
_PAPER, _INK, _GRID, _MARK = "#ffffff", "#222222", "#dddddd", "#888888"
_COLOURS = {"a": "#3b6fb6", "spare": "#3f9a5a"}
_OTHER, _IN_FLIGHT, _FAILED = "#999999", "#e08a1e", "#d02020"
_DOT = 2


class _Scale(NamedTuple):
    """From seconds to pixels. `begun` is the time at the left edge; `width` and `height` are those of the plot."""

    begun: float
    width: float
    height: float

    def x(self, at: float) -> float:
        left, _, right, _ = _PLOT
        return left + (at - self.begun) / self.width * (right - left)

    def y(self, seconds: float) -> float:
        _, top, _, bottom = _PLOT
        return bottom - seconds / self.height * (bottom - top)


def draw(result: Result, path: Path) -> None:
    """Write the picture as a PNG file. Raises OSError."""
    image = Image.new("RGB", _SIZE, _PAPER)
    pen = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(15), ImageFont.load_default(22)
    begun = result.requests[0].begun
    width = max(each.ended for each in result.requests) - begun
    scale = _Scale(begun, width, 1.1 * max(1.0, *(each.seconds for each in result.requests)))
    pen.text((_PLOT[0], 20), "Machine A loses power: how long each request took", _INK, large)
    _axes(pen, scale, small)
    for each in result.requests:
        colour = _colour(result, each)
        x, y = scale.x(each.begun), scale.y(each.seconds)
        pen.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), colour)
    for number, event in enumerate(each for each in result.events if each.at >= begun):
        x, line = scale.x(event.at), _PLOT[3] + 30 + 20 * number
        pen.line((x, _PLOT[1], x, line + 8), _MARK)
        right = x > (_PLOT[0] + _PLOT[2]) / 2
        pen.text((x - 6 if right else x + 6, line), event.text, _INK, small, anchor="ra" if right else "la")
    _legend(pen, small)
    for number, (name, value) in enumerate(table(result)):
        line = 655 + 23 * number
        pen.text((_PLOT[0], line), name, _INK, small)
        pen.text((_PLOT[0] + 330, line), value, _INK, small)
    image.save(path, "PNG")


def _axes(pen: ImageDraw.ImageDraw, scale: _Scale, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> None:
    left, top, right, bottom = _PLOT
    for seconds in _ticks(scale.height):
        y = scale.y(seconds)
        pen.line((left, y, right, y), _GRID)
        pen.text((left - 8, y), f"{seconds} s", _INK, font, anchor="rm")
    for seconds in _ticks(scale.width):
        pen.text((scale.x(scale.begun + seconds), bottom + 6), f"{seconds} s", _INK, font, anchor="ma")
    pen.rectangle((left, top, right, bottom), outline=_INK)


def _legend(pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> None:
    entries = [
        ("answered by A", _COLOURS["a"]),
        ("answered by the spare machine", _COLOURS["spare"]),
        ("in flight to A", _IN_FLIGHT),
        ("failed", _FAILED),
    ]
    x = float(_PLOT[2])
    for name, colour in reversed(entries):
        x -= pen.textlength(name, font)
        pen.text((x, 45), name, _INK, font)
        pen.rectangle((x - 18, 48, x - 6, 60), colour)
        x -= 36


def _ticks(most: float) -> Iterator[int]:
    """Yield round numbers of seconds up to `most`, a dozen at most."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if most / step <= 12)
    yield from range(0, int(most) + 1, step)


def _colour(result: Result, request: Request) -> str:
    if is_in_flight(request, result.cut):
        return _IN_FLIGHT
    return _FAILED if request.failure else _COLOURS.get(request.by, _OTHER)
