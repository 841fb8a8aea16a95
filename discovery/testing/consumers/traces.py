"""Clauses: files, and what a consumer leaves in its process."""

from collections.abc import Callable, Iterable

from discovery.testing.clauses import difference, expect
from discovery.testing.consumers.gentle import Gentle
from discovery.testing.consumers.session import Ending


def files_are_replaced_whole(seen: Gentle) -> None:
    """A program that reads a file while the file is written in place reads half of the file, and a crash leaves half.

    A file that is moved from another file system, as /tmp may be, is copied. `discovery.toolkit.write_atomically`
    replaces a file whole.
    """
    expect(not seen.files.in_place, "a new file renamed into place", f"written in place: {_names(seen.files.in_place)}")
    expect(not seen.moved, "a temporary file in the directory of the file", f"moved from elsewhere: {seen.moved}")


def files_are_never_absent(seen: Gentle) -> None:
    """A program that is started, or reloads, while the file is away, fails or serves nothing."""
    expect(
        not seen.files.absent, "a file at every moment", f"removed before it was replaced: {_names(seen.files.absent)}"
    )


def files_are_in_the_directories_of_the_instance(seen: Gentle) -> None:
    """Two instances, two daemons and an uninstallation know the run directory, the state directory and the options.

    Paths in the configuration are declared, as are paths in `outside` of the contract.
    """
    where = "files in the run directory, the state directory or a path of the configuration"
    expect(not seen.outside, where, seen.outside)


FILES: tuple[Callable[[Gentle], None], ...] = (
    files_are_replaced_whole,
    files_are_never_absent,
    files_are_in_the_directories_of_the_instance,
)


def settings_of_the_process_stay(endings: Iterable[Ending]) -> None:
    """All plugins and the core share a single process: its working directory, umask and environment are common."""
    for ending in endings:
        expect(not ending.settings_within, "the settings of the process as they were", ending.settings_within)
        expect(not ending.settings_after, "the settings of the process as they were", ending.settings_after)


def tasks_end_with_the_teardown(endings: Iterable[Ending]) -> None:
    """A task that goes on writes to what its successor, in the same loop, has set up."""
    for ending in endings:
        expect(not ending.tasks, "no task after teardown", ending.tasks)


def the_effect_outlasts_a_consumer_that_is_not_resident(endings: Iterable[Ending]) -> None:
    """`run --once` applies and ends. A consumer whose effect ends with the daemon returns True as `resident`."""
    for ending in endings:
        if ending.outlasting is not None:
            before, after = ending.outlasting
            expect(before == after, "the same effect after teardown, as `resident` is False", difference(before, after))


def threads_children_and_descriptors_end_with_the_teardown(endings: Iterable[Ending]) -> None:
    """A daemon lives for months, and sets a consumer up again at each change of its configuration."""
    kept = [ending for ending in endings if not ending.left]
    left = [ending.left for ending in endings]
    # What exists once in a process, such as a pool of threads of a library, is there from the first life on.
    expect(kept or len(left) < 2, "nothing that is left by each instance", left[-1] if left else {})


ENDINGS: tuple[Callable[[Iterable[Ending]], None], ...] = (
    settings_of_the_process_stay,
    tasks_end_with_the_teardown,
    the_effect_outlasts_a_consumer_that_is_not_resident,
    threads_children_and_descriptors_end_with_the_teardown,
)


def _names(paths: Iterable[str]) -> str:
    return ", ".join(sorted(set(paths)))
