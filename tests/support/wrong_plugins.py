"""Runs one test of a contract, or all of them, for a plugin with a fault, and returns the message."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from sampling import sampled

from discovery.testing import within
from discovery.testing.clauses import ContractError

Fault = tuple[type[Any], str, str]
"""A wrong plugin, the test of the contract that finds the fault, and the clause that the message names."""


def faults(*table: Fault, most: int = 5) -> Callable[[Any], Any]:
    """Parametrize a test with `wrong`, `test` and `clause`, each case named after the fault; short runs take `most`."""
    cases = [pytest.param(*row, id=row[0].__name__) for row in table]
    return pytest.mark.parametrize(("wrong", "test", "clause"), sampled(cases, min(most, len(cases))))


def message(contract: type[Any], test: str, **attributes: object) -> str:
    """Return the message of the ContractError that the test `test` of a contract raises."""
    case = type("Case", (contract,), attributes)()
    setup, teardown = getattr(case, "setup_method", None), getattr(case, "teardown_method", None)
    if setup:
        setup(None)
    try:
        with pytest.raises(ContractError) as caught:
            getattr(case, test)()
    finally:
        if teardown:
            teardown(None)
    return str(caught.value)


def messages(contract: type[Any], **attributes: object) -> list[str]:
    """Run every test of a contract for one plugin, and return the messages of those that fail."""
    kind, found, begun = type("Case", (contract,), attributes), [], time.monotonic()
    for name in sorted(name for name in dir(kind) if name.startswith("test_")):
        case = kind()
        setup, teardown = getattr(case, "setup_method", None), getattr(case, "teardown_method", None)
        if setup:
            setup(None)
        try:
            getattr(case, name)()
        except ContractError as error:
            found.append(str(error))
        except pytest.skip.Exception:
            continue
        finally:
            if teardown:
                teardown(None)
    assert time.monotonic() - begun < within(40)
    return found
