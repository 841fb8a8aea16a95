"""The report of `discovery run --dry-run`: what consumers would change and providers would register."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from discovery.cli.config import validate
from discovery.cli.console import note, result

if TYPE_CHECKING:
    from discovery.consuming.resolving import Resolved
    from discovery.daemon.faults import Faults
    from discovery.daemon.instances import Instances
    from discovery.daemon.once import Survey
    from discovery.daemon.settings import Settings
    from discovery.hosting.directories import Directories


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a dry run. `failures` has the reason by instance where a preview or a survey is not known."""

    registry: str | None
    revision: int | None = None
    previews: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    surveys: Mapping[str, "Survey"] = field(default_factory=lambda: MappingProxyType({}))
    failures: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    faults: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return 2 if self.faults else 1 if self.failures else 0

    @property
    def document(self) -> dict[str, Any]:
        """The report as JSON has it. `revision` is null if the registry was not asked, `registry` if it is unknown."""
        return {
            "registry": self.registry,
            "revision": self.revision,
            "consumers": {name: {"diff": diff} for name, diff in self.previews.items()},
            "providers": {name: _survey_document(survey) for name, survey in self.surveys.items()},
            "failures": dict(self.failures),
            "faults": list(self.faults),
            "unchecked": list(self.unchecked),
        }

    def print(self) -> None:
        """Print the report for a person."""
        for name, diff in self.previews.items():
            result(diff.rstrip("\n") if diff else f"# {name}: nothing would change")
        for line in self.unchecked:
            note(f"unchecked: {line}")
        for name, survey in self.surveys.items():
            _print_survey(name, survey)
        # The reason of a failed preview is often among the faults, too, and is told once.
        for name, reason in self.failures.items():
            if not any(reason in fault for fault in self.faults):
                note(f"{name}: {reason}")
        for fault in self.faults:
            note(fault)


async def faulty(settings: "Settings", instances: "Instances", faults: "Faults", timeout: float) -> Report:
    """Return the report of a configuration with faults, which has no previews: the faults as `config check` has them.

    `timeout` is the time in seconds for reading the registry.
    """
    from discovery.system.logs import configure_logging

    configure_logging("error", settings.log.format)
    validated = await validate(settings, instances, faults, timeout)
    registry = str(settings.registry) if settings.registry_is_known else None
    return Report(registry, faults=validated.faults, unchecked=validated.unchecked)


async def survey(
    settings: "Settings",
    instances: "Instances",
    directories: "Directories",
    timeout: float,
    read: Callable[["Settings", float], Any],
) -> Report:
    """Return the report of a configuration without faults. Changes nothing.

    `read` reads the registry within `timeout` seconds. Raises what `read` raises.
    """
    import structlog

    from discovery.daemon import once
    from discovery.daemon.validation import NOTHING, validate_instances
    from discovery.system.logs import configure_logging

    log = structlog.get_logger()
    previews: dict[str, str] = {}
    surveys: dict[str, Survey] = {}
    failures: dict[str, str] = {}
    updates, resolved = [NOTHING], None
    if instances.consumers:
        resolved = await read(settings, timeout)
        for name, preview in (await once.preview(instances.consumers.values(), resolved, directories, log)).items():
            if isinstance(preview, str):
                previews[name] = preview
            else:
                failures[name] = str(preview)
        updates.append(once.first_update(resolved))
    validated = await validate_instances(instances, updates, directories, log)
    configure_logging("error", settings.log.format)  # the results of checks are part of the report
    for name, found in (await once.survey(instances.providers.values(), directories, log, timeout)).items():
        if isinstance(found, Exception):
            failures[name] = str(found)
        else:
            surveys[name] = found
    return Report(
        str(settings.registry),
        _revision(resolved),
        previews,
        surveys,
        failures | instances.broken,
        validated.faults,
        validated.unchecked,
    )


def _revision(resolved: "Resolved | None") -> int | None:
    return resolved.snapshot.revision if resolved is not None else None


def _survey_document(survey: "Survey") -> dict[str, Any]:
    from discovery.documents import backend_document

    candidates = [
        backend_document(each.backend)
        | {"registered": each.registered, "verdict": each.verdict and each.verdict.value, "detail": each.detail}
        for each in survey.candidates.values()
    ]
    return {"candidates": candidates, "problems": dict(survey.problems), "skipped": dict(survey.skipped)}


def _print_survey(name: str, survey: "Survey") -> None:
    """Print a line for each candidate, problem and skipped item of a provider.

    A line begins with `+` for a candidate that would be registered, `-` for any other candidate, `!` for a problem, and
    `~` for a skipped item.
    """
    from discovery.cli.records import backend_line
    from discovery.system.terminal import printable

    count = sum(candidate.registered for candidate in survey.candidates.values())
    result(f"# {name}: {count} of {len(survey.candidates)} found would be registered")
    for candidate in survey.candidates.values():
        origin = f" ({candidate.origin})" if candidate.origin else ""
        detail = f": {candidate.detail}" if candidate.detail else ""
        result(printable(f"{'+' if candidate.registered else '-'} {backend_line(candidate.backend)}{origin}{detail}"))
    for what, reason in survey.problems.items():
        result(printable(f"! {what}: {reason}"))
    for what, rule in survey.skipped.items():
        result(printable(f"~ {what}: {rule}"))
