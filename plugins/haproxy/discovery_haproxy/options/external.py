"""Options of an external HAProxy: the file that the plugin writes, and the way to reload HAProxy."""

import zlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from discovery import PluginConfig
from discovery.fields import Duration
from discovery_haproxy.options.values import AbsolutePath, Paths
from discovery_haproxy.text.generation import DESCRIPTION, Marker


def _check_of_text(value: object) -> object:
    if value in ("local", "none"):
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(f'{value!r} is not a check: write "local", "none", or a program as a list')
    if not value:
        raise ValueError("the list is empty: write a program with its arguments")
    return value


class ExternalConfig(PluginConfig):
    """An external HAProxy: the plugin writes one file, and reloads HAProxy in exactly one of three ways.

    The file is the whole configuration (`path`), or a part beside the operator's own files (`fragment`). With `slots`
    the plugin writes no configuration and never reloads HAProxy.
    """

    path: AbsolutePath | None = None
    """The whole configuration."""
    fragment: AbsolutePath | None = None
    """A file with the services' `backend` sections, which HAProxy loads beside the operator's own files."""
    files: Paths = ()
    """With `fragment`: all files and directories that HAProxy loads, in the order of its command line. The fragment is
    the last file, unless the list names the fragment or its directory."""
    slots: bool = False
    """Put backends into the servers that the operator's file has for them (`server-template`), through `stats_socket`
    alone."""
    state_file: AbsolutePath | None = None
    """With `slots`: the `server-state-file` of the operator's configuration, from which a reload restores the slots."""
    adopt: bool = False
    """Replace the file although discovery did not write the file. The original is kept as `*.before-discovery`."""
    master_socket: AbsolutePath | None = None
    systemd_unit: Annotated[str, Field(pattern=r"^[A-Za-z0-9@_.:-]+$")] | None = None
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """A program and its arguments; no shell."""
    validation: Annotated[Literal["local", "none"] | tuple[str, ...], BeforeValidator(_check_of_text)] = Field(
        default="local", alias="validate"
    )
    """Check of each new configuration before the reload: by HAProxy on this machine, none, or by a program with its
    arguments, which reads the configuration from standard input; exit status 0 accepts."""
    timeout: Annotated[float, Duration(most=600)] = 10.0
    """Timeout of the reload."""
    stats_socket: AbsolutePath | None = None
    """Path of a stats socket of level admin, through which servers are changed without a reload, and each reload is
    proved. With `path` the socket is added to the configuration; with `fragment` the operator's files have the socket.
    """

    @property
    def file(self) -> Path | None:
        """The file that the plugin writes, without symbolic links; None with `slots`."""
        file = self.path or self.fragment
        return file.resolve() if file is not None else None

    @property
    def marker(self) -> Marker:
        """The form of the line that names the generation of the file. Each fragment sets a variable of its own."""
        if self.fragment is None:
            return DESCRIPTION
        return Marker(f"proc.discovery_{zlib.crc32(bytes(self.fragment.resolve())):08x}")

    @property
    def option(self) -> str:
        """Name of the option that names the file."""
        return "path" if self.path is not None else "fragment"

    @model_validator(mode="after")
    def _check_file(self) -> "ExternalConfig":
        if [self.path is not None, self.fragment is not None, self.slots].count(True) != 1:
            raise ValueError(
                "give exactly one of 'path' (the whole configuration), 'fragment' (a file beside your own files) and"
                " 'slots' (no file, your own servers)"
            )
        if self.slots and self.stats_socket is None:
            raise ValueError("'slots' needs 'stats_socket', a socket of level admin")
        if self.state_file is not None and not self.slots:
            raise ValueError("'state_file' is for 'slots'")
        if self.fragment is not None and not self.files:
            raise ValueError(
                "'fragment' needs 'files': what HAProxy loads, in the order of its command line, such as"
                ' ["/etc/haproxy/haproxy.cfg"]'
            )
        if self.fragment is None and self.files:
            raise ValueError("'files' is for 'fragment'")
        return self

    @model_validator(mode="after")
    def _check_reload_options(self) -> "ExternalConfig":
        ways = [self.master_socket, self.systemd_unit, self.command]
        if self.slots:
            for name in ("master_socket", "systemd_unit", "command", "adopt", "validation", "timeout"):
                if name in self.model_fields_set:
                    raise ValueError(
                        f"{type(self).model_fields[name].alias or name!r} has no effect with 'slots': nothing is"
                        " written or reloaded"
                    )
            return self
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give exactly one of 'master_socket', 'systemd_unit' and 'command'")
        return self
