"""The units of `deploy/`, as systemd's own tools read them: no warning, and little that a unit may do."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from discovery.testing import require_program, within

DEPLOY = Path(__file__).parents[2] / "deploy"
PROGRAMS = re.compile(r"/opt/discovery/bin/discovery|/usr/bin/docker(?= )|/usr/sbin/haproxy(?= )")
"""What need not be on this machine."""
MOST_EXPOSURE = 2.0
"""Of 10, as `deploy/systemd/README.md` promises."""
INSTANCE = "sample"
OWN = sorted((DEPLOY / "systemd").glob("*.service")) + sorted((DEPLOY / "systemd").glob("*.socket"))
DOCKER = sorted((DEPLOY / "systemd-docker").glob("*.service"))


def installed(units: list[Path], place: Path) -> dict[str, Path]:
    """Copy units as they would be installed, templates as an instance each, and return the copies by name.

    A program that is not on this machine is another one there. The socket of an instance has an address from a drop-in.
    """
    copies = {}
    for unit in units:
        name = unit.name.replace("@.", f"@{INSTANCE}.")
        copies[name] = place / name
        (place / unit.name).write_text(PROGRAMS.sub("/bin/true", unit.read_text()))
        if unit.suffix == ".socket" and name != unit.name:
            drop_in = place / f"{name}.d"
            drop_in.mkdir()
            (drop_in / "listen.conf").write_text("[Socket]\nListenStream=127.0.0.1:6379\n")
    return copies


def analyze(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `systemd-analyze` with the units of a directory before this machine's own."""
    program = require_program("systemd-analyze", wheel=False)
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{place}:", "LC_ALL": "C"}
    return subprocess.run(
        [program, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=within(60)
    )


def complaints(units: list[Path], place: Path) -> str:
    """Return what `systemd-analyze verify` says of units; unknown keys are warnings there, with exit status 0."""
    copies = installed(units, place)
    (place / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    checked = analyze(place, "verify", "--man=no", *copies)
    return f"{checked.stdout}{checked.stderr}" or "failed" * bool(checked.returncode)


@pytest.mark.parametrize("units", [OWN, DOCKER], ids=["systemd", "systemd-docker"])
def test_systemd_has_nothing_to_say_of_the_units(units: list[Path], tmp_path: Path) -> None:
    assert len(units) >= 5
    assert complaints(units, tmp_path) == ""


def test_an_unknown_key_would_be_seen(tmp_path: Path) -> None:
    unit = tmp_path / "from" / "wrong.service"
    unit.parent.mkdir()
    unit.write_text("[Service]\nExecStart=/bin/true\nRestartKilSignal=SIGKILL\n")
    (place := tmp_path / "to").mkdir()
    assert "RestartKilSignal" in complaints([unit], place)


@pytest.mark.parametrize("name", [unit.name for unit in OWN if unit.suffix == ".service"])
def test_a_unit_may_do_little(name: str, tmp_path: Path) -> None:
    installed(OWN, tmp_path)
    unit = tmp_path / name.replace("@.", f"@{INSTANCE}.")
    shutil.move(tmp_path / name, unit)
    looked = analyze(tmp_path, "security", "--offline=true", "--no-pager", str(unit))
    match = re.search(r"Overall exposure level for .*: ([0-9.]+) ", looked.stdout)
    assert match, looked.stderr
    assert float(match[1]) < MOST_EXPOSURE
    bound = analyze(
        tmp_path, "security", "--offline=true", f"--threshold={int(MOST_EXPOSURE * 10)}", "--no-pager", str(unit)
    )
    assert bound.returncode == 0, bound.stdout


def test_the_users_of_the_units_are_made_by_sysusers(tmp_path: Path) -> None:
    program = require_program("systemd-sysusers", wheel=False)
    users = DEPLOY / "systemd/sysusers.d/discovery.conf"
    (tmp_path / "etc").mkdir()
    done = subprocess.run([program, f"--root={tmp_path}", users], capture_output=True, text=True, check=True)
    assert all(line.startswith("Creating ") for line in done.stderr.splitlines()), done.stderr
    accounts = (tmp_path / "etc/passwd").read_text().splitlines()
    made = [account.split(":")[0] for account in accounts if account.split(":")[4].startswith("Service discovery, ")]
    wanted = {user for unit in OWN for user in re.findall(r"^User=(\S+)", unit.read_text(), re.MULTILINE)}
    assert wanted == set(made)


def test_a_unit_has_its_sockets_which_stay_non_blocking_at_its_start() -> None:
    """systemd sets them blocking otherwise, also for the workers of the process before, which share them."""
    for unit in OWN:
        if unit.suffix == ".socket":
            service = unit.with_suffix(".service").read_text()
            assert "\nNonBlocking=yes\n" in service
            assert f"\nRequires={unit.name.replace('@.', '@%i.')}\n" in service


def test_files_that_units_and_examples_name_are_the_same() -> None:
    """The directories of the units' files are made by tmpfiles, and the examples are for these files."""
    made = set(re.findall(r"^[df] (\S+)", (DEPLOY / "systemd/tmpfiles.d/discovery.conf").read_text(), re.MULTILINE))
    for unit in OWN:
        for file in re.findall(r"^EnvironmentFile=-?(\S+)", unit.read_text(), re.MULTILINE):
            assert str(Path(file).parent) in made, unit
    for example in (DEPLOY / "systemd/examples").iterdir():
        first = example.read_text().splitlines()[0]
        named = re.match(r"# (/etc/\S+?):", first)
        assert named, example
        assert str(Path(named[1]).parent) in made, example


@pytest.mark.parametrize("document", ["deploy/systemd/README.md", "docs/releases.md"])
def test_commands_that_install_files_make_directories_that_debian_lacks(document: str, tmp_path: Path) -> None:
    commands = re.findall(r"^(?:cp|install) .*", (DEPLOY.parent / document).read_text(), re.MULTILINE)
    assert commands
    made = re.findall(r"^d (\S+)", (DEPLOY / "systemd/tmpfiles.d/discovery.conf").read_text(), re.MULTILINE)
    for directory in ("/etc/systemd/system", "/usr/local/bin", *made):
        (tmp_path / directory[1:]).mkdir(parents=True)
    for command in commands:
        for source in command.replace("*", "any").split()[1:]:
            if not source.startswith(("/", "-")):
                (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / source).touch()
        there = re.sub(r" -g \S+", "", command).replace(" /", f" {tmp_path}/")
        done = subprocess.run(["/bin/sh", "-c", there], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


QUADLET_KEYS = {
    # podman-systemd.unit(5) of Podman 4.4, the first with Quadlet; a later version accepts all of them.
    "Container": {
        *("AddCapability", "AddDevice", "Annotation", "ContainerName", "DropCapability", "Environment"),
        *("EnvironmentFile", "EnvironmentHost", "Exec", "ExposeHostPort", "Group", "Image", "Label", "Network"),
        *("NoNewPrivileges", "Notify", "PodmanArgs", "PublishPort", "ReadOnly", "RemapGid", "RemapUid"),
        *("RemapUidSize", "RemapUsers", "RunInit", "SeccompProfile", "Timezone", "User", "VolatileTmp", "Volume"),
    },
    "Network": {
        *("DisableDNS", "Driver", "Gateway", "IPAMDriver", "IPRange", "IPv6", "Internal", "Label", "Options"),
        *("Subnet",),
    },
}
QUADLETS = sorted((DEPLOY / "quadlets").glob("*.*[rk]"))
QUADLET_UNITS = [path for path in QUADLETS if path.suffix == ".container"]


def sections(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the sections of a unit file; a section may stand several times, and a key, too."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"\[([A-Za-z]+)\]", line):
            current = found.setdefault(match[1], [])
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            current.append((key, value))
    return found


@pytest.mark.parametrize("path", QUADLETS, ids=[path.name for path in QUADLETS])
def test_quadlets_have_keys_of_podman_4_4_alone(path: Path) -> None:
    found = sections(path.read_text())
    kind = path.suffix[1:].capitalize()
    assert {key for key, _ in found[kind]} <= QUADLET_KEYS[kind]
    assert found.keys() <= {kind, "Unit", "Service", "Install"}


def as_units(place: Path) -> list[Path]:
    """Write each container file as the service that Quadlet makes of the file, with another command."""
    units = []
    for path in QUADLET_UNITS:
        text = re.sub(r"^\[Container\]\n(?:(?!\[).*\n)*", "", path.read_text(), flags=re.MULTILINE)
        unit = place / f"{path.stem}.service"
        unit.write_text(text.replace("[Service]\n", "[Service]\nExecStart=/bin/true\n"))
        units.append(unit)
    socket = place / "podman.socket"
    socket.write_text("[Socket]\nListenStream=/run/podman/podman.sock\nService=etcd-amb.service\n")
    return [*units, socket]


def test_systemd_has_nothing_to_say_of_the_quadlets_own_sections(tmp_path: Path) -> None:
    (place := tmp_path / "to").mkdir()
    assert complaints(as_units(tmp_path), place) == ""


@pytest.mark.parametrize("path", QUADLET_UNITS, ids=[path.name for path in QUADLET_UNITS])
def test_a_read_only_quadlet_has_a_tmp(path: Path) -> None:
    """Quadlet takes Podman's own tmpfs from a read-only container otherwise."""
    keys = dict(sections(path.read_text())["Container"])
    assert keys.get("VolatileTmp") == keys.get("ReadOnly")


@pytest.mark.parametrize("path", QUADLET_UNITS, ids=[path.name for path in QUADLET_UNITS])
def test_a_quadlet_is_on_the_network_that_is_made(path: Path) -> None:
    networks = {value for key, value in sections(path.read_text())["Container"] if key == "Network"}
    assert networks == {"discovery.network"}
    assert DEPLOY / "quadlets/discovery.network" in QUADLETS
