"""Passwords in lines of HAProxy's configuration, which no message and no diff shows. Pure."""

import re

_PASSWORD = re.compile(
    r"((?:password|auth)[ \t]+)(?!realm\b|if\b|unless\b)(?:\"(?:[^\"\\]|\\.)*(?:\"|$)|'[^']*(?:'|$)|\\.|\S)+"
)
"""A password, or the user and the password of `stats auth`; not the words after `http-request auth`."""


def without_passwords(line: str) -> str:
    """Return the line with `***` in place of each password and hash."""
    return _PASSWORD.sub(r"\1***", line)
