"""Values that are computed again only if their inputs change, so that a change costs what changes and not the whole."""

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Known(NamedTuple, Generic[T]):
    """A value, and the inputs of the function that returned it."""

    inputs: tuple[object, ...]
    value: T


class Memo(Generic[T]):
    """The latest values of a pure function by name.

    Inputs that are the same objects are equal without a comparison. The value for equal inputs is the same object, so
    that memos can be chained: the value of one is an input of the next.
    """

    def __init__(self) -> None:
        """Begin without values."""
        self._known: dict[str, _Known[T]] = {}

    def values(self, wanted: Iterable[tuple[str, tuple[object, ...]]], function: Callable[..., T]) -> list[T]:
        """Return the value of `function` for each name with its inputs. The values of other names are forgotten."""
        before, self._known = self._known, {}
        for name, inputs in wanted:
            known = before.get(name)
            if known is None or known[0] != inputs:
                known = _Known(inputs, function(*inputs))
            self._known[name] = known
        return [known[1] for known in self._known.values()]

    def value(self, inputs: tuple[object, ...], function: Callable[..., T]) -> T:
        """Return the value of `function`, which has one value: that for the latest inputs."""
        [value] = self.values([("", inputs)], function)
        return value
