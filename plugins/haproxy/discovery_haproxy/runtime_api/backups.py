"""The order of backups: HAProxy sends traffic to the first backup that is up, and appends an added server. Pure."""

from itertools import dropwhile, islice

from discovery_haproxy.text.configuration import Section
from discovery_haproxy.text.server_line import HOLDING_SERVER


def backup_behind(old: Section, new: Section, name: str) -> str:
    """Return, for a person, a backup of both sections that stands behind the server `name` in `new`; empty if none.

    With `option allbackups` traffic goes to every backup, and the order has no meaning.
    """
    if any(words[1:2] == ["allbackups"] for words in new.settings("option")):
        return ""
    behind = islice(dropwhile(lambda each: each != name, new.servers), 1, None)
    found = next((each for each in behind if each in old.servers and _may_be_backup(new, each)), "")
    return "the holding server" if found == HOLDING_SERVER else found


def _may_be_backup(section: Section, name: str) -> bool:
    server, line = section.server(name), section.servers[name]
    return "backup" in (server.options if server is not None else (*line.text.split(), *line.defaults))
