"""The Jinja2 environment: sandboxed, strict about what is undefined, and every printed value is marked."""

import json
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from discovery_template.printing.configuration import APACHE, CADDYFILE, NGINX
from discovery_template.printing.data import Hosts, Json, Plain
from discovery_template.printing.filters import FILTERS, FOR_PRINTED_TEXT, REMOVED, TESTS
from discovery_template.printing.marks import MARK, Format, UnprintableError, marked, printed
from discovery_template.printing.yaml import Yaml

BUILT_IN = Path(__file__).parents[1] / "builtin"
"""Directory of the ready-made templates."""
FORMATS: Mapping[str, Format[Any]] = {
    "nginx": NGINX,
    "apache": APACHE,
    "caddyfile": CADDYFILE,
    "json": Json(),
    "yaml": Yaml(),
    "hosts": Hosts(),
    "plain": Plain(),
}


class TemplateError(Exception):
    """A template cannot be rendered: a message of one line, with the template and the line.

    `marks` name the line, so that the same fault is known in another rendering.
    """

    def __init__(self, message: str, marks: frozenset[str] = frozenset()) -> None:
        """Store the arguments."""
        super().__init__(message)
        self.marks = marks


class _Generator(CodeGenerator):
    """Joins text by `~` so that printed text stays printed, and values stay values."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - named by Jinja2
        """Write the call that joins the operands."""
        self.write("environment.joined((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "%", "*"})

    def joined(self, parts: tuple[object, ...]) -> str:
        if any(isinstance(part, Markup) for part in parts):
            return Markup("".join(map(str, map(marked, parts))))  # noqa: S704 - each part is marked or printed
        return "".join(map(str, parts))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, Markup) or isinstance(right, Markup):
            raise UnprintableError(f"text that is printed already cannot be combined by {operator!r}: use ~")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, tuple) and attribute in getattr(type(obj), "_fields", ()):
            return getattr(obj, attribute)  # a field of a view: nearly every attribute, and safe by what it is
        _refuse_printed(obj)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        _refuse_printed(obj)
        return super().getitem(obj, argument)


class Templates:
    """The templates of an instance. The templates of one directory can include and import each other."""

    def __init__(self, directories: tuple[Path, ...] = ()) -> None:
        """Prepare the environment. `builtin:NAME` is a ready-made template."""
        self._environments: dict[str, _Environment] = {}
        self._directories = directories

    def render(self, name: str, format_name: str, variables: Mapping[str, object]) -> str:
        """Return the text of the file that the template makes.

        Raises TemplateError; UnprintableError if a value cannot be written into the file.
        """
        environment = self._environments.get(format_name)
        if environment is None:
            environment = self._environments[format_name] = _environment(self._directories, format_name)
        try:
            output = environment.get_template(name).render(variables)
        except jinja2.TemplateNotFound as error:
            raise TemplateError(f"template {error.name or name} cannot be read: there is no such file") from None
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"template {error.filename or name}, line {error.lineno}: {error.message}") from None
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            kind = UnprintableError if isinstance(error, UnprintableError) else TemplateError
            reason, place = " ".join(str(error).split()) or type(error).__name__, _place(name, error)
            raise kind(f"template {place}: {reason}", frozenset({f"{type(error).__name__} in {place}"})) from None
        try:
            text = printed(output, FORMATS[format_name])
        except UnprintableError as error:
            raise UnprintableError(f"template {name}: {error}", error.marks) from None
        if format_name == "json":
            _check_json(name, text)
        return text


def _place(name: str, error: Exception) -> str:
    """Return the template and the line at which an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    at = next((frame for frame in reversed(frames) if frame.filename.endswith((".j2", Path(name).name))), None)
    return f"{at.filename}, line {at.lineno}" if at else name


def _environment(directories: tuple[Path, ...], format_name: str) -> _Environment:
    environment = _Environment(
        loader=_Loader(directories),
        undefined=jinja2.StrictUndefined,
        finalize=_marked,
        autoescape=True,  # what macros and blocks return is printed text, and no value
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in REMOVED:
        environment.filters.pop(name, None)
    environment.globals.pop("lipsum", None)
    is_data = format_name in ("json", "yaml")
    own = {**FILTERS, "join": _join, "tojson": _unchanged if is_data else _to_json}
    both = {**environment.filters, **own}
    environment.filters = {
        name: each if name in FOR_PRINTED_TEXT else _for_values(name, each) for name, each in both.items()
    }
    environment.tests |= TESTS
    return environment


def _is_unchanged(path: Path, seen: int) -> bool:
    return path.exists() and path.stat().st_mtime_ns == seen


class _Loader(jinja2.BaseLoader):
    """Loads `builtin:NAME`, absolute paths, and files of the directories of the templates."""

    def __init__(self, directories: tuple[Path, ...]) -> None:
        self._directories = directories

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        name = template.removeprefix("builtin:")
        if name != template:
            candidates = [BUILT_IN / f"{Path(name).name}.j2"]
        else:
            candidates = [directory / template for directory in (*self._directories, Path("/"))]
        for path in candidates:
            try:
                text, seen = path.read_text(), path.stat().st_mtime_ns
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise TemplateError(f"template {path} cannot be read: {error}") from None
            if MARK in text:
                raise TemplateError(f"template {path} has the character U+001A, which a template cannot have")
            return text, str(path), partial(_is_unchanged, path, seen)
        raise jinja2.TemplateNotFound(template)


def _for_values(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if any(map(_has_printed, (*args, *kwargs.values()))):
            raise UnprintableError(f"text that is printed already cannot pass through the filter {name!r}")
        return function(*args, **kwargs)

    return checked


@jinja2.pass_eval_context  # else Jinja2 prints constants when it compiles, escaped for HTML
def _marked(context: object, value: object) -> str:
    return marked(value)


def _refuse_printed(obj: object) -> None:
    if isinstance(obj, Markup):
        raise UnprintableError("text that is printed already has no methods and parts")


@jinja2.pass_environment
def _join(environment: _Environment, values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        values = (environment.getattr(each, attribute) for each in values)
    parts: list[object] = []
    for value in values:
        parts += (separator, value) if parts else (value,)
    return environment.joined(tuple(each for each in parts if each != "" or len(parts) == 1))


def _has_printed(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_printed, value.values()))
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):  # a view has values alone
        return any(map(_has_printed, value))
    return isinstance(value, Markup)


def _unchanged(value: object) -> object:
    return value


def _to_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=dict)
    except (TypeError, ValueError):
        raise UnprintableError(f"a {type(value).__name__} has no form in JSON") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _check_json(name: str, text: str) -> None:
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise TemplateError(f"template {name} does not make JSON: {error}") from None
