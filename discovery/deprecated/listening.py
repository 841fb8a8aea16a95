"""Formerly `discovery.listening`."""

from discovery.deprecated import moved

__getattr__ = moved(
    "discovery.listening",
    "discovery.system.listening",
    renamed={
        "by": "format_holders",
        "listening": "tcp_sockets_listening_at",
        "listening_at": "unix_sockets_at",
        "meet": "binds_conflict",
        "owners": "processes_with_sockets",
    },
)
