"""Errors name the ways out that there are."""

import pytest

from discovery.errors import OwnedByAnotherError


@pytest.mark.parametrize(("owner", "offered"), [("bob", True), (None, False)])
def test_a_key_of_a_named_owner_can_be_asked_for(owner: str | None, offered: bool) -> None:
    assert ("takeover" in str(OwnedByAnotherError.of("web/b1", "somebody", owner))) == offered
