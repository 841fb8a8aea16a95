"""A reader of YAML finds each value as it is, wherever the value stands, and everything else as the template has it."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from template_hostile import HOSTILE

from discovery_template.printing.environment import FORMATS
from discovery_template.printing.marks import UnprintableError, marked, printed

PLACES = [
    "a: @\nz: c\n",
    "- @\n- b\n",
    "@: a\nzz: c\n",
    "a: run @ now\nz: c\n",
    "a: run --zone=@\nz: c\n",
    "a: rock 'n roll @\nz: @\n",
    "a: @ @\nz: @, @\n",
    "a: @:80\nb: x:@\nz: c\n",
    "a: {x: @, y: [u, @]}\nz: c\n",
    "a: {x: go @ on, y: z}\nz: c\n",
    "a: [@:80, 'q', @]\nz: c\n",
    "a: [\n  @,\n  x @,\n  don't @\n]\nz: @\n",
    "a: 'x@'\nb: '@'\nz: c\n",
    'a: "x@"\nb: "@"\nz: c\n',
    '"k": @\nz: c\n',
    "# @\na: b # @\nz: c\n",
    "a: |\n  first @\n  don't @\nz: @\n",
    "a: |  # why\n  @\n\n  'x @\nz: @\n",
    "a: >-\n  word @\nz: c\n",
    "- a: |\n    x @\n  z: @\n",
    "a:\n  - |\n    x 'y @\n  - @\n",
    "a: foo\n  'bar @ baz\nz: @\n",
    "a:\n- b: @\n  c: x @\n- 'd': @\n",
    "a:\n  @\nz: c\n",
    "? @\n: b\n",
    "a: &anchor @\nb: !!str @\nz: c\n",
    "%YAML 1.1\n---\na: @\n...\n",
    "- - @\n  - x @\n- c\n",
    "a: x @# y\nz: c\n",
    "a: don't\nb: @\n",
]
"""Templates of files, in which @ stands for the value."""
TEXT = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.sampled_from("\"'\\#:-?,[]{}&*!|>%@` \nab0."), max_size=8),
    st.text(max_size=6),
)


def filled(template: str, value: str) -> str | None:
    """Return the text of the file; None if the value is refused."""
    try:
        return printed(template.replace("@", str(marked(value))), FORMATS["yaml"])
    except UnprintableError:
        return None


def read(text: str, value: str, stand_in: str = "") -> Any:
    """Return what YAML says, with `value` in the place of `stand_in`.

    A blank before an empty value is nothing: YAML drops blanks at the end of a scalar.
    """

    def replaced(node: Any) -> Any:
        if isinstance(node, dict):
            return {replaced(key): replaced(each) for key, each in node.items()}
        if isinstance(node, list):
            return [replaced(each) for each in node]
        if not isinstance(node, str):
            return node
        node = node.replace(stand_in, value) if stand_in else node
        return node if value else node.rstrip(" ")

    return replaced(yaml.safe_load(text))


def expected(template: str, value: str) -> Any:
    """Return what the file says with a harmless value, in whose place the value is."""
    return read(template.replace("@", "harmless"), value, "harmless")


@given(st.sampled_from(PLACES), TEXT)
def test_a_value_is_read_as_it_is_and_changes_nothing_else(template: str, value: str) -> None:
    text = filled(template, value)
    if text is not None:
        assert read(text, value) == expected(template, value)


@pytest.mark.parametrize("template", PLACES)
def test_a_plain_value_may_stand_anywhere(template: str) -> None:
    for value in ("eu-1", "web_2", "10.0.0.1", "/srv/a.b"):
        text = filled(template, value)
        assert text is not None
        assert yaml.safe_load(text) == expected(template, value)


@pytest.mark.parametrize("value", [each for each in HOSTILE if not any("\ud800" <= one <= "\udfff" for one in each)])
def test_text_in_quotes_and_of_its_own_may_be_anything(value: str) -> None:
    for template in ("a: @\nz: c\n", "- @\n", 'a: "x@"\n', "a: {x: @}\n"):
        text = filled(template, value)
        assert text is not None
        assert yaml.safe_load(text) == expected(template, value)


@pytest.mark.parametrize(
    ("template", "value", "message"),
    [
        ("a: run @\n", "x #y", r"would end the scalar that it stands in: .* \(after 'a: run '"),
        ("a: @#x\n", "", r"without a value '#x' would be read as something else"),
        ('a: "\\@"\n', "n", "stands after a backslash"),
        ("a: 'x'@\n", "y", "stands where YAML has no text"),
        ("@: x\n", "y" * 1024, "too long for a key"),
    ],
)
def test_a_refusal_tells_the_place_and_the_way_out(template: str, value: str, message: str) -> None:
    with pytest.raises(UnprintableError, match=message):
        printed(template.replace("@", str(marked(value))), FORMATS["yaml"])
