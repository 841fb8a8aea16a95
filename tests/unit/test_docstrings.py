"""The first sentence of a docstring names its subject."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [
    *(ROOT / "discovery").rglob("*.py"),
    *(ROOT / "plugins").glob("*/discovery_*/**/*.py"),
    *(ROOT / "examples").rglob("*.py"),
]
QUESTION = re.compile(r"(What|Whether|Who|Whoever|How)\b")
PRONOUN = re.compile(r"\b(it|they|one|ours|whoever)\b", re.IGNORECASE)
MOST_QUESTIONS = 0.04
"""Share of the docstrings: a question is sometimes the clearest form."""
MOST_PRONOUNS = 0.05
"""Share of the docstrings: `one` may be a number, and `it` may follow its noun."""


def first_sentences() -> Iterator[str]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield re.split(r"(?<=[.:;])\s", text.replace("\n", " "))[0]


def test_few_docstrings_open_with_a_question_or_a_pronoun() -> None:
    sentences = list(first_sentences())
    questions = [sentence for sentence in sentences if QUESTION.match(sentence)]
    pronouns = [sentence for sentence in sentences if PRONOUN.search(sentence)]
    assert len(questions) <= MOST_QUESTIONS * len(sentences), questions
    assert len(pronouns) <= MOST_PRONOUNS * len(sentences), pronouns
