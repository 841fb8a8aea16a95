"""What comes beside the wheels of a release: manual pages, completions, the SBOM."""

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from discovery.cli.group import OWN
from discovery.testing import require_program, within
from release import completions, dist, manpages, sbom, versions

DISCOVERY = Path(sys.executable).with_name("discovery")
DATE = "2026-11-30"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The text of each manual page, by name."""
    return {page.name: page.text for page in manpages.pages("1.2.3", DATE)}


def shown(page: str) -> str:
    """What a terminal shows of a page. Fails where groff warns of anything."""
    command = [require_program("groff"), "-man", "-ww", "-Tutf8", "-P-cbou"]
    done = subprocess.run(command, input=page, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return re.sub(r"\s+", " ", done.stdout.replace("\N{HYPHEN}\n", ""))


def test_every_command_has_a_page_and_each_page_is_correct(pages: dict[str, str]) -> None:
    commands = {*OWN, "version", "help", "ambassador", "forward", "connections", "register-container", "xds"}
    names = {
        "discovery",
        *(f"discovery-{name}" for name in commands),
        "discovery-config-check",
        "discovery-plugins-new",
    }
    assert names == pages.keys()
    for name, page in pages.items():
        text = shown(page)
        assert f"NAME {name} - " in text
        assert "discovery 1.2.3" in text
        assert DATE in text


def test_a_page_says_what_the_help_says(pages: dict[str, str]) -> None:
    text = shown(pages["discovery-register"])
    assert "SYNOPSIS discovery register [OPTIONS]" in text
    assert "discovery register web [2001:db8::5]:8080 --id blue --weight 10 --label version=2" in text
    assert "--check-path PATH" in text
    assert "/etc/discovery/discovery.toml" in shown(pages["discovery"])


@pytest.mark.parametrize("text", [".TH evil", "'br", "a\\fBb", "--x 'y' `z` \"q\" ^~", ".", "a\n.b\n'c"])
def test_no_text_of_a_command_becomes_a_request_of_roff(text: str) -> None:
    page = f'.TH A "1"\n.SH NAME\n{manpages.escape(text)}\n'
    assert f"NAME {' '.join(text.split())} " in f"{shown(page)} "
    assert not [line for line in manpages.escape(text).splitlines() if line.startswith((".", "'"))]


def test_an_option_without_help_shows_its_name_alone() -> None:
    page = "\n".join(['.TH A "1"', ".SH OPTIONS", *manpages.definitions([("--bare", ""), ("--told", "Tells.")]), ""])
    assert "OPTIONS --bare --told Tells." in shown(page)


def test_each_shell_completes_the_commands(tmp_path: Path) -> None:
    completions.write(tmp_path, DISCOVERY)
    path = f"{DISCOVERY.parent}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": str(tmp_path)}
    bash = (
        'source "$1"; COMP_WORDS=(discovery reg); COMP_CWORD=1; _discovery_completion discovery; echo ${COMPREPLY[@]}'
    )
    found = {
        "bash": [require_program("bash"), "-c", bash, "-", tmp_path / "discovery.bash"],
        "fish": [require_program("fish"), "-c", f"source {tmp_path}/discovery.fish; complete -C 'discovery reg'"],
    }
    for command in found.values():
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert {word.split("\t")[0] for word in re.split(r"[ \n]", done.stdout)} >= {"register", "register-container"}
    assert (tmp_path / "_discovery").read_text().startswith("#compdef discovery\n")


def test_zsh_completes_at_the_first_tab(tmp_path: Path) -> None:
    """As a user has it: found in `fpath`, loaded at the first Tab, in a shell on a terminal."""
    completions.write(tmp_path, DISCOVERY)
    script = r"""
        zmodload zsh/zpty
        zpty shell 'zsh -f -i'
        zpty -w shell 'fpath=($1 $fpath); autoload -Uz compinit; compinit -u -D; PS1="read""y> "'
        zpty -r -m shell output '*ready> *'
        zpty -n -w shell $'discovery register-cont\t'
        zpty -r -m shell output '*ainer*'
        print -r -- $output
    """.replace("$1", str(tmp_path))
    environment = {"PATH": f"{DISCOVERY.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "dumb"}
    command = [require_program("zsh"), "-f", "-c", script]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=within(30),
        stdin=subprocess.DEVNULL,
    )
    assert "ainer" in done.stdout


def test_the_archive_is_the_same_each_time(tmp_path: Path) -> None:
    archives = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        archives.append(dist.write_extras(tmp_path / name, tmp_path / f"{name}.files", DISCOVERY, epoch="1760000000"))
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"man/man1/discovery.1", "completions/_discovery", "completions/discovery.fish"} <= names


ENVIRONMENT = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "version": 1,
    "metadata": {},
    "components": [
        {
            "type": "library",
            "bom-ref": "discovery-framework==1.2.3",
            "name": "discovery-framework",
            "version": "1.2.3",
            "externalReferences": [
                {
                    "type": "distribution",
                    "url": "file:///srv/dist/discovery_framework-1.2.3-py3-none-any.whl",
                    "hashes": [{"alg": "SHA-256", "content": "0" * 64}],
                }
            ],
        },
        {
            "type": "library",
            "bom-ref": "grpcio==1.80.0",
            "name": "grpcio",
            "version": "1.80.0",
            "externalReferences": [{"type": "website", "url": "https://grpc.io"}],
        },
        {"type": "library", "bom-ref": "pip==25.0", "name": "pip", "version": "25.0"},
    ],
    "dependencies": [
        {"ref": "discovery-framework==1.2.3", "dependsOn": ["grpcio==1.80.0"]},
        {"ref": "grpcio==1.80.0"},
        {"ref": "pip==25.0"},
    ],
}


def test_the_sbom_is_that_of_the_release_and_names_no_place_of_a_machine() -> None:
    bill = sbom.of_release(ENVIRONMENT, "1.2.3")
    text = json.dumps(bill)
    assert sbom.local_places(json.dumps(ENVIRONMENT)) != ()
    assert sbom.local_places(text) == ()
    assert "pip" not in {each["name"] for each in bill["components"]}
    core, grpcio = bill["components"]
    assert core["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]
    assert core["purl"] == "pkg:pypi/discovery-framework@1.2.3"
    assert grpcio["externalReferences"] == [{"type": "website", "url": "https://grpc.io"}]
    assert bill["dependencies"][0] == {"ref": "discovery", "dependsOn": ["discovery-framework==1.2.3"]}
    assert {each["ref"] for each in bill["dependencies"]} == {"discovery", core["bom-ref"], grpcio["bom-ref"]}


@pytest.mark.parametrize(
    "place",
    [
        "file:///srv/x.whl",
        f"{Path.home()}/x",
        f"built in {versions.ROOT}",
        f"{tempfile.gettempdir()}/x.whl",
        f"{sys.prefix}/bin/python",
        "http://127.0.0.1:3141/simple",
        "http://10.0.0.7/simple",
        "https://me:secret@index.example/simple",
    ],
)
def test_a_place_of_a_machine_is_found(place: str) -> None:
    assert sbom.local_places(json.dumps({"url": place})) != ()


@pytest.mark.parametrize(
    "text",
    [
        f"https://example.org{Path.home()}/guide",
        f"https://example.org{tempfile.gettempdir()}/x",
        "https://example.org/work/of/others",
        "profile: a Python profiler",
        "pkg:pypi/some@10.1.2.3",
        "binds to localhost",
        f"{tempfile.gettempdir()}orary",
    ],
)
def test_what_is_public_is_no_place_of_a_machine(text: str) -> None:
    assert sbom.local_places(json.dumps({"url": text})) == ()


def test_the_sbom_of_an_environment_is_valid(tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert (
        JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(sbom.of_release(ENVIRONMENT, "1.2.3"))) is None
    )
