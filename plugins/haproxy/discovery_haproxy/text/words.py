"""The words of a line of HAProxy's configuration, and the words that begin a section."""

import re
import shlex

SECTIONS = re.compile(
    r"global|defaults|frontend|backend|listen|resolvers|peers|userlist|mailers|program|ring|cache"
    r"|http-errors|log-forward|log-profile|fcgi-app|crt-list|crt-store|acme|traces"
)
"""The words that begin a section, wherever in the line they stand first."""
HEADER = re.compile(rf"^[ \t]*(?:{SECTIONS.pattern})(?=\s|\Z)", re.MULTILINE)
"""The begin of a section in a text."""
_QUOTING = re.compile(r"""["'\\#]""")


def words(line: str) -> list[str]:
    """Split a line into words as HAProxy does. HAProxy's quotes, backslashes and comments are those of a shell."""
    if not _QUOTING.search(line):
        return line.split()  # a hundred times faster
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # an unclosed quote, which HAProxy refuses
        return line.split()
