"""Options of the consumer `template`."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from discovery import PluginConfig
from discovery.fields import Duration, format_value
from discovery_template.options.commands import Command, Proof, Reload, Run

BUILT_IN = "builtin:"
"""Beginning of the name of a ready-made template."""
FormatName = Literal["nginx", "apache", "caddyfile", "json", "yaml", "hosts", "plain"]
RUN_DIR = "{run_dir}"
"""Stands for the run directory of the instance."""
_OF_BUILT_IN: dict[str, FormatName] = {
    "prometheus": "json",
    "json": "json",
    "hosts": "hosts",
    "nginx-upstreams": "nginx",
    "httpd-balancers": "apache",
    "caddyfile": "caddyfile",
}
"""Formats of the ready-made templates."""


def _mode(value: object) -> object:
    mode = -1  # a number is refused, too: 644 is not 0o644
    if isinstance(value, str):
        with suppress(ValueError):
            mode = int(value, 8)
    if not 0 <= mode <= 0o777:
        raise ValueError(f'{format_value(value)} is not the mode of a file: write text such as "0644"')
    return mode


def _absolute(path: Path) -> Path:
    if not path.name or path.name in (".", ".."):
        raise ValueError(f"{str(path)!r} is not the path of a file")
    return path if path.parts[0] == RUN_DIR else path.absolute()


def _template(name: str) -> str:
    if not name.startswith(BUILT_IN):
        return str(Path(name).absolute())
    if name.removeprefix(BUILT_IN) not in _OF_BUILT_IN:
        raise ValueError(f"there is no template {name!r}: ready-made are {', '.join(sorted(_OF_BUILT_IN))}")
    return name


Mode = Annotated[int, BeforeValidator(_mode, json_schema_input_type=str)]


class FileConfig(PluginConfig):
    """A file that a template makes."""

    template: Annotated[str, Field(min_length=1), AfterValidator(_template)]
    """Path of a Jinja2 template, or a ready-made template such as `builtin:prometheus`."""
    file: Annotated[Path, AfterValidator(_absolute)]
    """The file to write. `{run_dir}` at its beginning is the instance's run directory."""
    format: FormatName
    """Syntax of the file, by which printed values are quoted."""
    mode: Mode = 0o644
    """Mode of a new file. A file that is there keeps its mode and owner."""
    check: Command | None = None
    """Command that must accept the staged file, whose path replaces `{file}`."""
    variables: dict[str, Any] = Field(default_factory=dict)
    """Values for the template, as `variables.NAME`."""

    @model_validator(mode="before")
    @classmethod
    def _add_format(cls, values: object) -> object:
        if isinstance(values, dict) and "format" not in values and isinstance(values.get("template"), str):
            name = values["template"].removeprefix(BUILT_IN)
            if name != values["template"]:
                return {**values, "format": _OF_BUILT_IN.get(name, "plain")}
        return values

    @model_validator(mode="after")
    def _check_template(self) -> "FileConfig":
        name = self.template.removeprefix(BUILT_IN)
        if name != self.template and self.format != _OF_BUILT_IN[name]:
            raise ValueError(
                f"the template {self.template!r} has the format {_OF_BUILT_IN[name]!r}: leave 'format' out"
            )
        if self.check is not None and not any("{file}" in argument for argument in self.check):
            raise ValueError(
                "the 'check' of a file names the staged file as '{file}': a command that checks the installed files is"
                " the 'check' of the instance"
            )
        return self


class TemplateConfig(PluginConfig):
    """Options of an instance of the consumer `template`."""

    files: Annotated[tuple[FileConfig, ...], Field(json_schema_extra={"minItems": 1})]
    """The files to write: all together, or none."""
    check: Command | None = None
    """Command that must accept the files once they are in place, before the reload."""
    check_timeout: Annotated[float, Duration(0.1, 600)] = 60.0
    reload: Reload | None = None
    """How the program is made to read the files: a command, or a table with `command`, `signal` or `url`."""
    prove: Proof | None = None
    """What must show the new state: a URL, a command, or a table."""
    run: Run | None = None
    """Program to start in the foreground and to supervise: a command, or a table."""

    @model_validator(mode="after")
    def _check_signal(self) -> "TemplateConfig":
        if self.reload and self.reload.signal and not self.reload.pid_file and not self.run:
            raise ValueError("the signal of 'reload' needs a program: set its 'pid_file', or 'run'")
        if self.reload and self.reload.pid_file and self.run:
            raise ValueError("'run' starts the program that gets the signal: leave 'pid_file' out")
        return self

    @model_validator(mode="after")
    def _check_files(self) -> "TemplateConfig":
        if not self.files:
            raise ValueError("'files' is empty: write a table with 'template' and 'file' for each file")
        paths = [str(f) if f.parts[0] == RUN_DIR else os.path.realpath(f) for f in (each.file for each in self.files)]
        templates = {os.path.realpath(each.template) for each in self.files if not each.template.startswith(BUILT_IN)}
        for path in paths:
            if path in templates:
                raise ValueError(f"{path} is a template, which the file would replace: name another 'file'")
            if paths.count(path) > 1:
                raise ValueError(f"two templates write {path}: name another file for one of them")
        return self
