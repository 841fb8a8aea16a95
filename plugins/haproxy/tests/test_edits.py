"""The difference that an edit makes, and the seal by which an edit is noticed."""

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery_haproxy.text.edits import edit_lines
from discovery_haproxy.text.seal import is_sealed, seal, unseal

LINES = [f"    server s{number} 10.0.0.1:{number}" for number in range(1, 101)]


@pytest.mark.parametrize("at", [0, 1, 50, 99])
def test_the_difference_is_that_of_diff(at: int) -> None:
    edited = [*LINES[:at], "    server other 10.0.0.2:80", *LINES[at + 1 :]]
    expected = list(difflib.unified_diff(LINES, edited, lineterm=""))[2:]
    assert edit_lines("\n".join(LINES), "\n".join(edited)) == expected


def test_equal_texts_do_not_differ() -> None:
    assert edit_lines("a\nb\n", "a\nb\n") == []


def test_a_long_difference_is_cut() -> None:
    lines = edit_lines("", "\n".join(LINES))
    assert len(lines) == 41
    assert lines[-1] == "and 61 lines more"
    assert edit_lines("\n".join(LINES * 100), "") == ["lines 1 to 10000 were replaced by 0 lines: too many to show"]
    assert len(edit_lines("", "x" * 10_000)[1]) == 160


@pytest.mark.parametrize(
    "line",
    [
        "user a insecure-password hunter2",
        "stats auth a:hunter2",
        "user a password hunter2",
        'user a insecure-password "my hunter2"',
        "stats auth 'a:my hunter2'",
        r"user a password my\ hunter2",
        "user a password 'my hunter2",
    ],
)
def test_a_difference_shows_no_password(line: str) -> None:
    shown = "\n".join(edit_lines("", line))
    assert line.split(maxsplit=1)[0] in shown
    assert "hunter2" not in shown


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_a_sealed_text_is_unsealed_to_itself(text: str) -> None:
    text = unseal(text)
    assert unseal(seal(text)) == text
    assert is_sealed(seal(text))
    assert not is_sealed(text)


@given(st.text(alphabet="ab\n#"), st.integers(min_value=0), st.sampled_from("cd\n "))
def test_any_edit_breaks_the_seal(text: str, at: int, inserted: str) -> None:
    sealed = seal(f"# Written by discovery\n{text}")
    at %= len(sealed) + 1
    assert not is_sealed(sealed[:at] + inserted + sealed[at:])
