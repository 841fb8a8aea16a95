"""Hostile values, which templates print."""

HOSTILE = [
    "", " ", "a b", "a\nb", "a;b", "{", "}", '"', "'", "\\", "a\\", "$host", "${HOME}", "%{env:HOME}e", "{env.HOME}",
    "#", "# x", "\0", "\x1a", "\r", "\t", "é", "\u2028", "😀", "null", "true", "1", "-", "~", "*", "<x>",
    "</VirtualHost>",
    "`", "include", "import", "default", ": x", "- x", "&a", "!!x", "a: b", "\ud800", "x" * 1024,
]  # fmt: skip
