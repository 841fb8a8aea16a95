"""Completion scripts for bash, zsh and fish. They ask the installed `discovery`, so they never grow old."""

from pathlib import Path

from release.commands import ReleaseError, run

FILES = {"bash": "discovery.bash", "zsh": "_discovery", "fish": "discovery.fish"}
"""The name that each shell looks for."""
_AT_FIRST = {"zsh": '[[ $funcstack[1] != _discovery ]] || _discovery_completion "$@"\n'}
"""What has to follow the script: zsh calls the file as a function at the first Tab, and the script only defines."""


def write(target: Path, discovery: Path) -> tuple[Path, ...]:
    """Write what the program `discovery` prints for each shell into the directory `target`. Raises ReleaseError."""
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for shell, name in FILES.items():
        # zsh looks for "#compdef" in the first line.
        script = run(discovery, _DISCOVERY_COMPLETE=f"source_{shell}").strip()
        if "discovery" not in script:
            raise ReleaseError(f"no completion for {shell}: {script!r}")
        written.append(target / name)
        written[-1].write_text(f"{script}\n{_AT_FIRST.get(shell, '')}")
    return tuple(written)
