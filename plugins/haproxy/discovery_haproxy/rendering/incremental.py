"""Values that are computed again only if their inputs change, so that a change costs what changes and not the whole."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, wraps
from itertools import compress
from operator import is_not
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S")
T = TypeVar("T")


_REMEMBERED = 4
"""Values of a function that `by_identity` remembers: for the present configuration, and for those that are composed."""


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


class Row(Generic[S, T]):
    """The latest values of a pure function for a row of objects, of which a change makes few others.

    An object that was in the row before is not looked at again.
    """

    def __init__(self) -> None:
        """Begin without values."""
        self._objects: Sequence[S] = ()
        self._values: Sequence[T] = ()
        self._facts: object = None

    def values(self, objects: Sequence[S], function: Callable[[S], T], facts: object = None) -> Sequence[T]:
        """Return the value of `function` for each object. `facts` are what all values depend on besides."""
        if facts != self._facts:
            self._objects, self._values, self._facts = (), (), facts
        new = list(compress(range(len(objects)), map(is_not, objects, self._objects)))
        if len(objects) == len(self._objects) and len(new) <= 1:
            values = list(self._values)
            for at in new:
                values[at] = function(objects[at])
        else:
            known = dict(zip(map(id, self._objects), self._values, strict=True))
            values = [known[id(each)] if id(each) in known else function(each) for each in objects]
        self._objects, self._values = tuple(objects), values
        return values


class _Identity(Generic[S]):
    """An object as a key of a cache: equal to the same object alone, so that nothing is compared."""

    def __init__(self, of: S) -> None:
        self.of = of

    def __hash__(self) -> int:
        return id(self.of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.of is other.of


def by_identity(function: Callable[[S], T]) -> Callable[[S], T]:
    """Remember the latest values of a pure function of an immutable object, by the identity of the object."""
    known = lru_cache(maxsize=_REMEMBERED)(lambda key: function(key.of))

    @wraps(function)
    def remembered(of: S) -> T:
        return known(_Identity(of))

    return remembered
