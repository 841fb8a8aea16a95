"""Execution of templates, the built-in ones and a user's own."""

import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import jinja2

from discovery import ApplyError
from discovery_haproxy.rendering.quoting import argument, finalize, raw
from discovery_haproxy.rendering.template_cache import TemplateCache

BUILT_IN = Path(__file__).parent / "templates"


@lru_cache(maxsize=4)
def templates_of(
    template: Path | None = None,
    directories: tuple[Path, ...] = (),
    digests: tuple[tuple[Path, str], ...] = (),
) -> jinja2.Environment:
    """Return the environment of a user's template, if any, and of the built-in ones.

    `directories` are where the template includes others from, after its own directory. A changed digest recompiles the
    templates.
    """
    loaders: list[jinja2.BaseLoader] = [jinja2.PrefixLoader({"builtin": jinja2.FileSystemLoader(BUILT_IN)})]
    if template is not None:
        loaders.append(jinja2.FileSystemLoader([template.parent, *directories]))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        bytecode_cache=TemplateCache(BUILT_IN, module_file=__file__),
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        autoescape=False,  # noqa: S701 - autoescape is for HTML; finalize quotes for HAProxy
        trim_blocks=True,
        lstrip_blocks=True,
        # The built-in templates do not change, and are run for each service: no look at the file each time.
        auto_reload=template is not None,
    )
    environment.filters |= {"arg": argument, "raw": raw}
    return environment


def run(templates: jinja2.Environment, name: str, context: Mapping[str, object], directory: Path = BUILT_IN) -> str:
    """Return the output of the template `name`. Raises ApplyError, with the template's file and the line."""
    try:
        return templates.get_template(name).render(context)
    except jinja2.TemplateNotFound as error:
        raise ApplyError(f"template {directory / (error.name or name)} cannot be read: there is no such file") from None
    except jinja2.TemplateSyntaxError as error:
        raise ApplyError(f"template {error.filename or name}, line {error.lineno}: {error.message}") from None
    except Exception as error:  # noqa: BLE001 - a template can raise anything
        frames = traceback.extract_tb(error.__traceback__)
        at = next((frame for frame in reversed(frames) if frame.filename.endswith((name, ".j2"))), None)
        place = f"{at.filename}, line {at.lineno}" if at else name
        raise ApplyError(f"template {place}: {' '.join(str(error).split()) or type(error).__name__}") from None


def run_block(templates: jinja2.Environment, name: str, block: str, context: Mapping[str, object]) -> str:
    """Return the output of a block alone of the template `name`, a built-in one."""
    template = templates.get_template(name)
    return "".join(template.blocks[block](template.new_context(dict(context))))
