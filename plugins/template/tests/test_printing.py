"""What is printed stays data, in every format and at every place of a file."""

import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from template_hostile import HOSTILE

from discovery_template.printing.environment import FORMATS, TemplateError, Templates
from discovery_template.printing.marks import UnprintableError, marked, printed

TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(alphabet=st.characters(), max_size=8), st.text("\"'\\${}#;` \nab"))


def rendered(tmp_path: Path, form: str, source: str, **variables: object) -> str:
    path = tmp_path / "template.j2"
    path.write_text(source)
    return Templates((tmp_path,)).render(str(path), form, variables)


def put(form: str, before: str, value: object, after: str) -> str | None:
    """Return a value as printed between two texts; None if the value is refused."""
    try:
        text = printed(f"{before}{marked(value)}{after}", FORMATS[form])
    except UnprintableError as error:
        assert str(error).isprintable()
        return None
    assert text.startswith(before)
    assert text.endswith(after)
    return text[len(before) : len(text) - len(after)]


@given(TEXT)
def test_json_has_every_value_as_it_is(value: str) -> None:
    written = put("json", '{"a": ', value, "}")
    within = put("json", '{"a": "x', value, 'y"}')
    if any("\ud800" <= character <= "\udfff" for character in value):
        assert written is None
        return
    assert json.loads(f'{{"a": {written}}}') == {"a": value}
    assert json.loads(f'{{"a": "x{within}y"}}') == {"a": f"x{value}y"}


def nginx_words(line: str) -> list[str]:
    """Return the words of a line of nginx's configuration, up to the semicolon, as nginx reads them."""
    words, at = [], 0
    while line[at] != ";":
        if line[at] == " ":
            at += 1
            continue
        quote = line[at] if line[at] in "\"'" else ""
        at += len(quote)
        word = ""
        while line[at] != quote if quote else line[at] not in " ;{" or line[at - 1 : at + 1] == "${":
            if line[at] == "\\":
                at += 1
            word += line[at]
            at += 1
        at += len(quote)
        assert line[at] in " ;"
        words.append(word)
    return words


def has_no_form(value: str) -> bool:
    """Report whether a value has a character that no line of a file can have."""
    kinds = {unicodedata.category(character) for character in value}
    return bool(kinds & {"Cc", "Cs", "Zl", "Zp"} or set(value) & set("\ufeff\ufffe\uffff"))


@given(TEXT)
def test_nginx_reads_each_value_as_one_word(value: str) -> None:
    for before, after in ((" ", " z;"), ('"', '" z;'), ("x", " z;"), ("${h}", " z;")):
        written = put("nginx", f"add {before}", value, after)
        within = not before.strip('" ')
        if written is None:
            meaning = has_no_form(value) or "$" in value or (within and value.startswith("~"))
            assert meaning or not (within or re.fullmatch(r"[A-Za-z0-9_.:/@+,=^*?&|\[\]%-]*", value))
            continue
        _, word, last = nginx_words(f"add {before}{written}{after}")
        assert last == "z"
        assert word == (value if within else f"{before}{value}")
        assert "$" not in written


@given(TEXT, TEXT)
def test_values_side_by_side_make_no_variable_and_no_word_with_a_meaning(one: str, other: str) -> None:
    for form, before, after, meaning in (
        ("nginx", 'add "', '"', r"\$[A-Za-z0-9_{]"),
        ("nginx", 'add "$', '"', r"\$[A-Za-z0-9_{]"),
        ("nginx", "map $a $b { ", " x;", r"(?i)^\"?(include|default|~)"),
        ("nginx", 'map $a $b { "', '" x;', r'(?i)^(include"|default"|~)'),
        ("apache", 'Word "', '"', r"[$%]\{"),
        ("apache", 'Word "$', '"', r"[$%]\{"),
        ("apache", 'Word "%', '"', r"[$%]\{"),
        ("apache", "Word ", "\n", r"[$%]\{"),
    ):
        for values in ((one, other), ("inc", "lude"), ("", "~x"), ("$", "{HOME}"), ("", "{HOME}")):
            marks = "".join(map(marked, values))
            try:
                text = printed(f"{before}{marks}{after}", FORMATS[form])
            except UnprintableError:
                continue
            assert not re.search(meaning, text[len(before) - before.endswith(("$", "%")) :]), text


@given(TEXT)
def test_no_value_ends_its_line_in_a_format_of_lines(value: str) -> None:
    for form in ("nginx", "apache", "caddyfile", "hosts", "plain"):
        for before in ("word ", "# comment ", 'word "x', "word x"):
            written = put(form, before, value, '" end' if '"' in before else " end")
            assert written is None or written.isprintable() or set(written) - set(map(chr, range(32))) == set(written)
            assert written is None or "\n" not in written


@given(TEXT)
def test_httpd_and_caddy_expand_nothing_in_a_value(value: str) -> None:
    for before, after in (("Word ", "\n"), ('Word "', '"\n'), ("Word x", "\n")):
        httpd = put("apache", before, value, after) or ""
        assert "${" not in httpd
        assert "%{" not in httpd
        caddy = put("caddyfile", before, value, after) or ""
        assert not set(caddy) & set("{}")


@pytest.mark.parametrize(
    ("form", "before", "value"),
    [
        ("nginx", "\n", "include"),
        ("nginx", "map $a $b { ", "default"),
        ("nginx", "location ", "~.*"),
        ("nginx", 'location "', "~.*"),
        ("nginx", 'map $a $b { "', "include"),
        ("nginx", "${host}", "a; evil on; #"),
        ("nginx", "a}", "b; evil on; #"),
        ("nginx", 'add "\\', '"'),
        ("nginx", 'add "$', "host"),
        ("nginx", "lua \"x = '", "' .. os"),
        ("apache", "", "LoadModule"),
        ("apache", "<VirtualHost *:80>\n    ", "Include"),
        ("apache", "Define x \"'", "'"),
        ("apache", "# ", "comment\\"),
        ("apache", '"', "LoadModule"),
        ("apache", 'Word "$', "{HOME}"),
        ("apache", 'Word "C:\\', '"'),
        ("caddyfile", "\n", "import"),
        ("caddyfile", '\n"', "import"),
        ("caddyfile", "\n", "(snippet)"),
        ("caddyfile", "\n", "&(route)"),
        ("caddyfile", "\n", "@matcher"),
        ("caddyfile", "\n", "a.com,"),
        ("json", '{"a": "\\', "u0041"),
    ],
)
def test_a_value_with_a_meaning_at_its_place_is_refused(form: str, before: str, value: str) -> None:
    assert put(form, before, value, " x") is None


def test_a_backslash_in_the_template_continues_a_line_of_httpd(tmp_path: Path) -> None:
    assert rendered(tmp_path, "apache", "Word \\\n {{ a }}\n", a="x y") == 'Word \\\n "x y"\n'


def test_macros_and_blocks_are_text_of_the_template_and_their_values_are_data(tmp_path: Path) -> None:
    source = (
        "{% macro line(x) %}add {{ x }};{% endmacro %}{{ line(a) }}{{ line(a) ~ a }};"
        "{% set all %}b {{ a }};{% endset %}{{ all }}{{ all | indent(2) }}"
    )
    assert rendered(tmp_path, "nginx", source, a="x; y") == ('add "x; y";add "x; y";"x; y";b "x; y";b "x; y";')


@pytest.mark.parametrize(
    "expression",
    [
        "(a | raw) + b", "(a | raw) % b", "(a | raw) | replace('a', b)", "(a | raw).join([b])", "(a | raw).format(b)",
        "[a | raw, b] | sum(start='')", "b | safe", "b | escape", "b | xmlattr", "(a | raw) | upper", "b.__class__",
        "backend",
    ],
)  # fmt: skip
def test_no_expression_makes_a_value_text_of_the_template(tmp_path: Path, expression: str) -> None:
    with pytest.raises((TemplateError, UnprintableError)):
        rendered(tmp_path, "nginx", f"add {{{{ {expression} }}}};", a="%s", b="x; evil y", backend=object())


def test_raw_prints_text_as_it_is_but_for_the_mark_of_values(tmp_path: Path) -> None:
    assert rendered(tmp_path, "nginx", "{{ a | raw }}", a="x; $y") == "x; $y"
    with pytest.raises(UnprintableError, match="U\\+001A"):
        rendered(tmp_path, "nginx", "{{ a | raw }}", a='\x1a"y"\x1a')
    with pytest.raises(TemplateError, match="U\\+001A"):
        rendered(tmp_path, "nginx", 'x \x1a"y"\x1a')


def test_printed_text_is_not_marked_again() -> None:
    assert marked(Markup("x")) == "x"


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "[NaN]"])
def test_a_number_that_json_lacks_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnprintableError, match="has no form in JSON"):
        rendered(tmp_path, "json", '{"a": {{ text | from_json }}}', text=text)


def test_a_refusal_names_the_template_and_what_stands_before(tmp_path: Path) -> None:
    with pytest.raises(UnprintableError, match=r"template .*/template\.j2: '\$a' has .* \(after 'b \"\" c '\)"):
        rendered(tmp_path, "nginx", "a;\n  b {{ x }} c {{ y }};", x="", y="$a")
    with pytest.raises(UnprintableError, match=r"template .*/template\.j2, line 2: 'maybe' is neither true nor false"):
        rendered(tmp_path, "nginx", "\n{{ 'maybe' | parse_bool }}")


def test_a_regex_takes_time_linear_in_the_text(tmp_path: Path) -> None:
    source = "{{ a | regex_replace('^(a+)+$', '<\\\\1>') }} {{ 'yes' if a is matching('^(a|a)*$') else 'no' }}"
    assert rendered(tmp_path, "plain", source, a="a" * 1000 + "!") == "a" * 1000 + "! no"
    assert rendered(tmp_path, "plain", source, a="aa") == "<aa> yes"
    for wrong in ("'x' | regex_replace('(', '')", "'x' | regex_replace('x', '\\\\7')"):
        with pytest.raises(UnprintableError, match=r"template\.j2, line 1: .*(RE2|group)"):
            rendered(tmp_path, "plain", f"{{{{ {wrong} }}}}")


def test_a_file_in_json_is_json(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="does not make JSON"):
        rendered(tmp_path, "json", "[1,]")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'a,b' | split(',') | join('-')", "a-b"),
        ("'/a/b.c' | basename", "b.c"),
        ("'/a/b.c' | dirname", "/a"),
        ("'v1.2' | trim_prefix('v') | trim_suffix('.2')", "1"),
        ("'yes' | parse_bool", "true"),
        ("('{\"a\": 7}' | from_json).a", "7"),
        ("'x' | base64_encode | base64_decode", "x"),
        ("'x' | sha256 | length", "64"),
        ("'a1b2' | regex_replace('[0-9]', '')", "ab"),
        ("'yes' if 'abc' is matching('^a') else 'no'", "yes"),
        ("{'b': 1, 'a': [true]} | tojson", '{"a": [true], "b": 1}'),
    ],
)
def test_filters_of_other_template_programs(tmp_path: Path, expression: str, expected: str) -> None:
    assert rendered(tmp_path, "plain", f"{{{{ {expression} }}}}") == expected


def test_joined_values_are_one_value_and_joined_text_stays_text(tmp_path: Path) -> None:
    assert rendered(tmp_path, "nginx", "add {{ [a, b] | join(', ') }};", a="x", b="y;") == 'add "x, y;";'
    assert rendered(tmp_path, "nginx", "add {{ ['b ' | raw, a] | join }};", a="y;") == 'add b "y;";'
    assert rendered(tmp_path, "plain", "{{ '<&>' }}{{ '<' ~ '>' }}{{ [a, 1] | join }}", a="<") == "<&><><1"


@pytest.mark.parametrize("form", ["nginx", "apache", "caddyfile"])
def test_an_empty_value_may_begin_a_word_that_goes_on(form: str, tmp_path: Path) -> None:
    assert put(form, "zone ", "", ".x") == ""
    assert put(form, "zone ", "", "#x") is None
    assert put(form, "zone ", "", '"x"') is None
    assert rendered(tmp_path, form, "zone {{ a }}{{ b }}\n", a="", b="eu") == "zone eu\n"
    assert rendered(tmp_path, form, "zone {{ a }}{{ b }}\n", a="", b="") == 'zone ""\n'
