"""The clauses of a contract: their names, their reasons, and the message of a clause that does not hold.

A clause is a function whose name states the rule and whose docstring gives the reason.
"""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import ndiff
from pathlib import Path
from typing import TypeVar, cast

from discovery.errors import describe
from discovery.testing import process
from discovery.testing.watching import HangError, watched

C = TypeVar("C")

_LONGEST = 800
"""Characters of an expected or seen value in a message: enough to recognise the value, few enough to read."""
_COMPARED = 20_000
"""Characters of two texts whose lines are compared: longer texts take seconds."""
_OWN = Path(__file__).parent


class ContractError(AssertionError):
    """A clause of a contract does not hold: the message has its name, the expectation, the finding and the reason."""


class BrokenError(AssertionError):
    """The finding of a clause, to which `clause` and `examine` add the name and the reason of the clause."""

    def __init__(self, expected: str, seen: object) -> None:
        """Keep the text `expected` and the value `seen`."""
        super().__init__(f"expected {expected}; seen: {shown(seen)}")
        self.expected = expected
        self.seen = seen


def expect(holds: object, expected: str, seen: object) -> None:
    """Raise BrokenError unless `holds` is true. `expected` is text, and `seen` is any value."""
    if not holds:
        raise BrokenError(expected, seen)


def equal(seen: object, expected: object) -> None:
    """Raise BrokenError unless `seen` equals `expected`."""
    expect(seen == expected, shown(expected), seen)


@contextmanager
def raising(kind: type[Exception], match: str = "") -> Iterator[None]:
    """Raise BrokenError unless the block raises an exception of type `kind` whose text contains `match`."""
    expected = kind.__name__ + (f" with {match!r}" if match else "")
    try:
        yield
    except HangError:
        raise
    except kind as error:
        expect(match in str(error), expected, describe(error))
    except Exception as error:
        raise BrokenError(expected, describe(error)) from error
    else:
        raise BrokenError(expected, "no exception")


def shown(value: object) -> str:
    """Return `value` as text of limited length."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def difference(one: object, other: object) -> str:
    """Return where two values differ, for a message: of mappings, sequences and texts the parts that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in {**one, **other} if (key in one) != (key in other) or one.get(key) != other.get(key)]
        return "; ".join(f"{key!r}: {_pair(one.get(key, _NOTHING), other.get(key, _NOTHING))}" for key in keys)
    if isinstance(one, list | tuple) and type(one) is type(other) and len(one) == len(other):
        pairs = [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
        return "; ".join(_pair(*pair) for pair in pairs)
    return _pair(one, other)


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()


def _pair(one: object, other: object) -> str:
    if isinstance(one, bytes) and isinstance(other, bytes):
        one, other = one.decode(errors="backslashreplace"), other.decode(errors="backslashreplace")
    if isinstance(one, str) and isinstance(other, str) and ("\n" in one or "\n" in other):
        lines = [*ndiff(one.splitlines(), other.splitlines())] if len(one) + len(other) < _COMPARED else []
        return "\n".join(line for line in lines if line[:1] in "+-") or "long texts"
    return f"{shown(one)} and {shown(other)}"


def title(function: Callable[..., object]) -> str:
    """Return the name of the clause that `function` is, in words."""
    return function.__name__.removeprefix("test_").replace("_", " ")


def clause(test: Callable[[C], None]) -> Callable[[C], None]:
    """Decorate a test method of a contract: a limited time, and a message that explains a failure.

    The method runs on a thread of its own, so that a plugin that blocks fails the clause and does not hang the tests.
    Every exception that leaves the method, of the plugin or of a check, becomes a ContractError. Outcomes of pytest
    (skip, fail) pass.
    """

    @functools.wraps(test)
    def run(self: C) -> None:
        plugin, settings = getattr(self, "_plugin", None), process.settings()
        try:
            watched(lambda: test(self), plugin)
        except Exception as error:
            if isinstance(error, ContractError) or _is_outcome(error):
                raise
            raise _explained(test, error, plugin) from error
        except BaseException as error:  # a plugin may raise anything, SystemExit too
            if _is_outcome(error) or isinstance(error, KeyboardInterrupt):
                raise
            raise _explained(test, error, plugin) from error
        finally:
            process.restore(settings)  # what a faulty plugin changes must not fail other tests

    return cast("Callable[[C], None]", run)


def examine(plugin: object, observed: C, clauses: Iterable[Callable[[C], None]]) -> None:
    """Check each of `clauses` on `observed`, and raise a ContractError that names all that do not hold."""
    broken: list[ContractError] = []
    first: BaseException | None = None
    for check in clauses:
        try:
            check(observed)
        except ContractError as error:
            broken.append(error)
        except Exception as error:  # noqa: BLE001 - a value of a plugin may raise anything when it is compared
            first = first or error
            broken.append(_explained(check, error, plugin))
    if broken:
        raise ContractError("\n\n".join(str(error) for error in broken)) from first


def _explained(function: Callable[..., object], error: BaseException, plugin: object) -> ContractError:
    expected, seen = "no error", f"{describe(error)}{_place(error)}"
    if isinstance(error, BrokenError):
        expected, seen = error.expected, shown(error.seen)
    elif isinstance(error, HangError):
        expected, seen = "every call to return in time", str(error)
    elif isinstance(error, AssertionError) and str(error):
        expected, seen = "the condition of the clause", shown(str(error))
    reason = inspect.getdoc(function) or ""
    name = getattr(plugin, "__name__", None) or type(plugin).__name__
    return ContractError(
        f'{name} breaks the clause "{title(function)}"\n'
        f"  expected: {expected}\n"
        f"  seen:     {seen}\n"
        f"  why:      {' '.join(reason.split())}\n"
        f"  clause:   {function.__module__}.{function.__qualname__}"
    )


def _place(error: BaseException) -> str:
    """Return where `error` was raised, outside this package if there is such a place."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent != _OWN]
    return f" (in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _is_outcome(error: BaseException) -> bool:
    """Return True if `error` is an outcome of pytest: a skipped or failed test, or the end of the run."""
    return type(error).__module__.partition(".")[0] == "_pytest"
