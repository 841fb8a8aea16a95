"""Chunks of a configuration text: together they are the text, and together they are parsed as the text is."""

from hypothesis import given
from hypothesis import strategies as st

from discovery_haproxy.runtime_api.planner import Plan, make_plan
from discovery_haproxy.text.chunks import Block, Chunk, blocks_of, configuration_of, listeners_of, split
from discovery_haproxy.text.configuration import NOTHING, Inherited, parse
from discovery_haproxy.text.listeners import listeners_in

LINES = st.sampled_from(
    [
        "global",
        "defaults",
        "\tdefaults named",
        "    default-server check inter 2s",
        "frontend web",
        "  bind :80",
        "  bind /run/web.sock",
        "  unix-bind prefix /chroot",
        "backend web",
        "backend other # backend",
        " backendless",
        "    server a 10.0.0.1:80",
        "    server b 10.0.0.2:80 weight 2",
        "    'server' c 10.0.0.3:80",
        "# backend comment",
        "",
        " \x0bglobal",
        "\x1cdefaults",
        "listen",
    ]
)
TEXTS = st.lists(LINES, max_size=20).map("\n".join)


@given(TEXTS)
def test_chunks_are_parsed_as_the_text_is(text: str) -> None:
    chunks = split(text)
    assert "".join(chunk.text for chunk in chunks) == text
    assert configuration_of(chunks) == parse(text)


@given(TEXTS, st.integers(1, 4))
def test_blocks_are_parsed_as_the_text_is(text: str, size: int) -> None:
    chunks = split(text)
    blocks = [Block(chunks[at : at + size]) for at in range(0, len(chunks), size)]
    assert "".join(block.text for block in blocks) == text
    assert b"".join(block.data for block in blocks) == text.encode()
    for inherited in (NOTHING, Inherited(("default-server check",)), NOTHING):
        assert configuration_of(blocks, inherited) == parse(text, inherited)
    assert listeners_of(blocks) == listeners_in(text)


def test_a_change_makes_one_block() -> None:
    chunks = [Chunk(f"backend b{number}\n") for number in range(100)]
    before = blocks_of(chunks, ())
    after = blocks_of([*chunks[:50], Chunk("backend b50 # changed\n"), *chunks[51:]], before)
    assert [old is new for old, new in zip(before, after, strict=True)].count(False) == 1
    assert [chunk for block in after for chunk in block.chunks][50].text == "backend b50 # changed\n"
    assert blocks_of(chunks[:-1], before) == blocks_of(chunks[:-1], ())


@given(TEXTS, TEXTS)
def test_chunks_of_another_text_are_parsed_as_the_text_is(one: str, other: str) -> None:
    known = {chunk.text: chunk for chunk in split(one)}
    configuration_of(tuple(known.values()))
    assert configuration_of(split(other, known)) == parse(other)


def test_an_unchanged_chunk_is_parsed_into_the_same_section() -> None:
    text = "defaults\n  mode http\nbackend a\n  server x 10.0.0.1:80\nbackend b\n  server x 10.0.0.2:80\n"
    chunks = split(text)
    changed = split(text.replace("10.0.0.2", "10.0.0.3"), {chunk.text: chunk for chunk in chunks})
    before, after = configuration_of(chunks), configuration_of(changed)
    assert [old is new for old, new in zip(before.sections, after.sections, strict=True)] == [True, True, False]
    plan = make_plan(before, after, (2, 8), {})
    assert isinstance(plan, Plan)
    assert plan.sections == ("b",)


def test_a_section_is_parsed_again_when_the_defaults_before_it_change() -> None:
    text = "defaults\n  default-server check\nbackend a\n  server x 10.0.0.1:80\n"
    chunks = split(text)
    before = configuration_of(chunks)
    changed = text.replace("check", "backup")
    after = configuration_of(split(changed, {chunk.text: chunk for chunk in chunks}))
    assert before.backends["a"].servers["x"].defaults == ("check",)
    assert after == parse(changed)
    assert after.backends["a"].servers["x"].defaults == ("backup",)
