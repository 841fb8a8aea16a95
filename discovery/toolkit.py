"""Tools for authors of plugins: files, sockets, processes, host names and logs, as the core uses them.

Every name is loaded on first use: a plugin that imports one name loads nothing for the others.
"""

from typing import TYPE_CHECKING

from discovery.system.lazy import lazy_attributes

if TYPE_CHECKING:
    from discovery.consuming.lastnames import LastNames
    from discovery.consuming.names import Names
    from discovery.documents import backend_document, backend_of
    from discovery.system.asyncio_tools import cancel_and_wait, is_being_cancelled, wait_for_event, wait_for_tasks
    from discovery.system.backoff import delays
    from discovery.system.certificates import Certificate, read_certificate
    from discovery.system.embedded import wheel_program
    from discovery.system.environment import child_environment
    from discovery.system.files import sync_directory, write_atomically
    from discovery.system.filewatch import FileWatch
    from discovery.system.kernel import memfd_create
    from discovery.system.listenerrors import listen_error_reason
    from discovery.system.listening import (
        SocketTable,
        binds_conflict,
        format_holders,
        processes_with_sockets,
        tcp_sockets_listening_at,
        unix_sockets_at,
    )
    from discovery.system.logs import log_format
    from discovery.system.lookups import Lookup
    from discovery.system.owners import container_id
    from discovery.system.process import ProcessHandle
    from discovery.system.program import Program, Stopping, end_left_program
    from discovery.system.proving import wait_for_proof
    from discovery.system.runcommand import CommandOutput, check_command, run_command, signal_name
    from discovery.system.terminal import printable
    from discovery.system.transaction import FileContents, FileTransaction, recover_files
    from discovery.system.unixsocket import (
        SOCKET_PATH_BYTES,
        PeerCredentials,
        is_too_long_for_a_socket,
        peer_credentials,
        with_short_path,
    )

__all__ = [
    "SOCKET_PATH_BYTES",
    "Certificate",
    "CommandOutput",
    "FileContents",
    "FileTransaction",
    "FileWatch",
    "LastNames",
    "Lookup",
    "Names",
    "PeerCredentials",
    "ProcessHandle",
    "Program",
    "SocketTable",
    "Stopping",
    "backend_document",
    "backend_of",
    "binds_conflict",
    "cancel_and_wait",
    "check_command",
    "child_environment",
    "container_id",
    "delays",
    "end_left_program",
    "format_holders",
    "is_being_cancelled",
    "is_too_long_for_a_socket",
    "listen_error_reason",
    "log_format",
    "memfd_create",
    "peer_credentials",
    "printable",
    "processes_with_sockets",
    "read_certificate",
    "recover_files",
    "run_command",
    "signal_name",
    "sync_directory",
    "tcp_sockets_listening_at",
    "unix_sockets_at",
    "wait_for_event",
    "wait_for_proof",
    "wait_for_tasks",
    "wheel_program",
    "with_short_path",
    "write_atomically",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "discovery.consuming.lastnames": ("LastNames",),
        "discovery.consuming.names": ("Names",),
        "discovery.documents": ("backend_document", "backend_of"),
        "discovery.system.asyncio_tools": (
            "cancel_and_wait",
            "is_being_cancelled",
            "wait_for_event",
            "wait_for_tasks",
        ),
        "discovery.system.backoff": ("delays",),
        "discovery.system.certificates": ("Certificate", "read_certificate"),
        "discovery.system.embedded": ("wheel_program",),
        "discovery.system.environment": ("child_environment",),
        "discovery.system.files": ("sync_directory", "write_atomically"),
        "discovery.system.filewatch": ("FileWatch",),
        "discovery.system.kernel": ("memfd_create",),
        "discovery.system.listenerrors": ("listen_error_reason",),
        "discovery.system.listening": (
            "SocketTable",
            "binds_conflict",
            "format_holders",
            "processes_with_sockets",
            "tcp_sockets_listening_at",
            "unix_sockets_at",
        ),
        "discovery.system.logs": ("log_format",),
        "discovery.system.lookups": ("Lookup",),
        "discovery.system.owners": ("container_id",),
        "discovery.system.process": ("ProcessHandle",),
        "discovery.system.program": ("Program", "Stopping", "end_left_program"),
        "discovery.system.proving": ("wait_for_proof",),
        "discovery.system.runcommand": ("CommandOutput", "check_command", "run_command", "signal_name"),
        "discovery.system.terminal": ("printable",),
        "discovery.system.transaction": ("FileContents", "FileTransaction", "recover_files"),
        "discovery.system.unixsocket": (
            "SOCKET_PATH_BYTES",
            "PeerCredentials",
            "is_too_long_for_a_socket",
            "peer_credentials",
            "with_short_path",
        ),
    },
)
