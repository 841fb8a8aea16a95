"""The consumer `template`: one transaction, roll back, containment, and a program that the plugin runs."""

import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from template_driving import driven

from discovery import ApplyError, Backend
from discovery.testing import cannot_run, eventually
from discovery.toolkit import FileContents, FileTransaction
from discovery_template.consumer import TemplateConsumer
from discovery_template.printing.views import ServiceView

WEB = Backend("web", "1", "10.0.0.1", 80)
API = Backend("api", "1", "10.0.0.2", 80)
SERVERS = "{% for backend in backends %}server {{ backend.address }} {{ backend.labels.zone }};\n{% endfor %}"


def written(directory: Path, name: str, template: str = SERVERS, **options: Any) -> Mapping[str, Any]:
    """Write a template; return the table of its file."""
    path = directory / f"{name}.j2"
    path.write_text(template)
    return {"template": str(path), "file": str(directory / name), "format": "nginx", **options}


def listed(path: Path) -> list[str]:
    """Return the lines of a file; none if there is no file."""
    return path.read_text().splitlines() if path.exists() else []


async def test_a_change_that_a_check_refuses_changes_no_file(tmp_path: Path) -> None:
    refusing = ["grep", "-q", "10.0.0.1", "{file}"]
    config = {"files": [written(tmp_path, "a"), written(tmp_path, "b", check=refusing)]}
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(WEB)
        with pytest.raises(ApplyError, match=r"the check refuses .*/b: grep: exit 1"):
            await driver.apply()
        assert listed(tmp_path / "a") == listed(tmp_path / "b") == ['server 10.0.0.1:80 "";']
        assert [path for path in tmp_path.iterdir() if "discovery-new" in path.name] == []
        assert not driver.consumer.resident


async def test_it_explains_a_backend_by_the_lines_of_the_files(tmp_path: Path) -> None:
    async with driven(TemplateConsumer, {"files": [written(tmp_path, "a")]}, tmp_path) as driver:
        assert driver.consumer.explain([WEB]) == {}
        await driver.apply(WEB, API)
        assert driver.consumer.explain([WEB]) == {"web/1": ('a: server 10.0.0.1:80 "";',)}


async def test_a_replaced_file_keeps_owner_and_mode_and_the_link_that_leads_to_it(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("before")
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 12, 34)
    (tmp_path / "link").symlink_to("real")
    async with driven(TemplateConsumer, {"files": [written(tmp_path, "link")]}, tmp_path) as driver:
        before = real.stat()
        await driver.apply(WEB)
        after = real.stat()
    assert (tmp_path / "link").is_symlink()
    assert real.read_text() == 'server 10.0.0.1:80 "";\n'
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


async def test_a_link_of_another_user_is_not_followed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can make another user's link")
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.lchown(tmp_path / "link", 12, 34)
    async with driven(TemplateConsumer, {"files": [written(tmp_path, "link")]}, tmp_path) as driver:
        with pytest.raises(ApplyError, match="a symbolic link of another user"):
            await driver.apply(WEB)


@pytest.mark.parametrize("step", ["check", "reload", "prove"])
async def test_a_refused_change_is_rolled_back_and_the_program_reads_the_former_files(
    tmp_path: Path, step: str
) -> None:
    log, file = tmp_path / "log", tmp_path / "a"
    reload = ["sh", "-c", f"cat {file} >> {log}"]
    refuse = ["grep", "-q", "10.0.0.1", str(file)]
    config: dict[str, Any] = {"files": [written(tmp_path, "a"), written(tmp_path, "new")], "reload": reload}
    if step == "reload":
        config["reload"] = ["sh", "-c", f"cat {file} >> {log}; grep -q 10.0.0.1 {file}"]
    else:
        config[step] = refuse if step == "check" else {"command": refuse, "timeout": 0.1}
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(WEB)
        with pytest.raises(ApplyError):
            await driver.apply(API)
        assert listed(file) == ['server 10.0.0.1:80 "";'] == listed(tmp_path / "new")
        former, refused = 'server 10.0.0.1:80 "";', 'server 10.0.0.2:80 "";'
        assert listed(log) == ([former] if step == "check" else [former, refused, former])
        assert not (tmp_path / "state" / "files.json").exists()
        await driver.apply(WEB, API)
        assert listed(file) == [refused, former]


async def test_a_service_whose_label_cannot_be_printed_is_refused_alone(tmp_path: Path) -> None:
    config = {"files": [written(tmp_path, "a")]}
    bad = Backend("web", "2", "10.0.0.3", 80, labels={"zone": "$host"})
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(bad, API)
        assert listed(tmp_path / "a") == ['server 10.0.0.2:80 "";']
        health = await driver.consumer.health()
        assert (health.ok, health.state, health.problems.keys()) == (True, "degraded", {"service web"})
        problems = health.problems
        reason = f"template {tmp_path}/a.j2: '$host' has '$', which nginx cannot quote (after 'server 10.0.0.3:80 ')"
        assert problems == {"service web": f"{reason}; the service is left out"}
        await driver.apply(WEB, API)
        moved = Backend("api", "1", "10.0.0.9", 80)
        await driver.apply(WEB, bad, moved)
        assert listed(tmp_path / "a") == ['server 10.0.0.9:80 "";', 'server 10.0.0.1:80 "";']
        problems = (await driver.consumer.health()).problems
        assert problems["service web"].endswith("; the last accepted form stands")
        assert set((await driver.consumer.inspect())["refused"]) == {"web"}
        await driver.apply(WEB, moved)
        assert (await driver.consumer.health()).state == "ok"


async def test_the_accepted_form_of_a_refused_service_outlives_the_daemon(tmp_path: Path) -> None:
    config = {"files": [written(tmp_path, "a")]}
    bad = Backend("web", "1", "10.0.0.9", 80, labels={"zone": "$host"})
    former = Backend("web", "1", "10.0.0.1", 80, labels={"zone": "a b"})
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(former, API)
        await driver.apply(bad, API)
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(bad)
        assert listed(tmp_path / "a") == ['server 10.0.0.1:80 "a b";']
        await driver.apply(WEB)
    assert not (tmp_path / "state" / "accepted.json").exists()


async def test_an_accepted_form_that_a_new_template_refuses_is_left_out(tmp_path: Path) -> None:
    config = {"files": [written(tmp_path, "a")]}
    labels = {"zone": "a", "other": "$x"}
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(Backend("web", "1", "10.0.0.1", 80, labels=labels), API)
        bad = Backend("web", "1", "10.0.0.1", 80, labels={**labels, "zone": "$"})
        await driver.apply(bad, API)
        written(tmp_path, "a", SERVERS.replace("labels.zone", "labels.other"))
        await driver.apply(bad, API, operator_request=True)
        assert listed(tmp_path / "a") == ['server 10.0.0.2:80 "";']


async def test_a_service_that_the_check_refuses_is_found_among_many(tmp_path: Path) -> None:
    check = ["sh", "-c", "! grep -q bad {file}"]
    config = {"files": [written(tmp_path, "a", check=check)]}
    good = [Backend(f"s{number}", "1", f"10.1.0.{number}", 80) for number in range(1, 30)]
    bad = [Backend(name, "1", "10.2.0.1", 80, labels={"zone": "bad"}) for name in ("s15b", "s3b")]
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(*good, *bad)
        assert len(listed(tmp_path / "a")) == 29
        assert set((await driver.consumer.inspect())["refused"]) == {"s15b", "s3b"}


async def test_many_services_that_cannot_be_printed_are_found_in_a_few_renderings(tmp_path: Path) -> None:
    config = {"files": [written(tmp_path, "a", SERVERS + "# {{ backends | length }}\n")]}
    bad = [Backend(f"b{number}", "1", "10.2.0.1", 80, labels={"zone": f"${number % 7}"}) for number in range(40)]
    good = [Backend(f"g{number}", "1", "10.1.0.1", 80, labels={"zone": "x y"}) for number in range(40)]
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        render, sizes = driver.consumer.render, []

        def counted(services: Sequence[ServiceView], generation: str) -> Mapping[Path, FileContents]:
            sizes.append(len(services))
            return render(services, generation)

        driver.consumer.render = counted  # type: ignore[method-assign]
        await driver.apply(*bad, *good)
        assert set((await driver.consumer.inspect())["refused"]) == {each.service for each in bad}
        assert listed(tmp_path / "a")[-1] == "# 40"
        assert sum(sizes) <= 80 + 80 + 40  # all, each alone, and those that are left


async def test_a_service_without_what_the_template_takes_for_granted_is_refused_alone(tmp_path: Path) -> None:
    template = "{% for service in services %}server {{ service.backends[0].address }};\n{% endfor %}"
    config = {"files": [written(tmp_path, "a", template)]}
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(API, Backend("idle", "1", "10.0.0.3", 80, weight=0), WEB)
        assert listed(tmp_path / "a") == ["server 10.0.0.2:80;", "server 10.0.0.1:80;"]
        (problem,) = (await driver.consumer.health()).problems.values()
        assert "a.j2, line 1: " in problem


async def test_a_template_that_needs_a_service_which_is_not_there_blames_no_other(tmp_path: Path) -> None:
    config = {"files": [written(tmp_path, "a", '{{ services["db"].backends[0].address }};\n')]}
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        with pytest.raises(ApplyError, match=r"a\.j2, line 1: "):
            await driver.apply(WEB, API)
        assert (await driver.consumer.inspect())["refused"] == {}


@pytest.mark.parametrize("command", [["/nonexistent/check", "{file}"], ["sh", "-c", "sleep 60", "{file}"]])
async def test_a_check_that_cannot_be_run_blames_no_service(tmp_path: Path, command: list[str]) -> None:
    config = {"files": [written(tmp_path, "a", check=command)], "check_timeout": 0.1}
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        with pytest.raises(ApplyError, match=r"cannot be run|did not end within 0\.1 s"):
            await driver.apply(WEB, API)
        assert (await driver.consumer.inspect())["refused"] == {}
        assert listed(tmp_path / "a") == []


async def test_a_deployment_that_fails_gives_up_no_accepted_form(tmp_path: Path) -> None:
    file = tmp_path / "a"
    config = {"files": [written(tmp_path, "a")], "check": ["grep", "-q", "10.0.0.1", str(file)]}
    former = Backend("web", "1", "10.0.0.1", 80, labels={"zone": "a", "other": "$"})
    bad = Backend("web", "1", "10.0.0.9", 80, labels={"zone": "$", "other": "$"})
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(former)
        written(tmp_path, "a", SERVERS.replace("labels.zone", "labels.other"))
        with pytest.raises(ApplyError, match="the check refuses the files"):
            await driver.apply(bad, operator_request=True)
        written(tmp_path, "a")
        await driver.apply(bad, operator_request=True)
        assert listed(file) == ["server 10.0.0.1:80 a;"]


async def test_a_fault_of_the_template_is_told_with_its_line_and_changes_nothing(tmp_path: Path) -> None:
    config = {"files": [written(tmp_path, "a")]}
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(WEB)
        (tmp_path / "a.j2").write_text("\n{{ nothing }}")
        with pytest.raises(ApplyError, match=r"a\.j2, line 2: 'nothing' is undefined"):
            await driver.apply(WEB, API)
        assert listed(tmp_path / "a") == ['server 10.0.0.1:80 "";']
        await eventually(lambda: driver.applies_requested > 0, "the changed template to be noticed")


async def test_a_preview_is_a_difference_and_writes_nothing(tmp_path: Path) -> None:
    config = {"files": [written(tmp_path, "a")]}
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        shown = await driver.consumer.preview(
            driver.update(WEB, Backend("x", "1", "10.0.0.3", 80, labels={"zone": "$"}))
        )
    assert shown.splitlines()[0].startswith(f"# service 'x' is refused: template {tmp_path}/a.j2: '$' has '$'")
    assert shown.splitlines()[-1] == '+server 10.0.0.1:80 "";'
    assert not (tmp_path / "a").exists()


async def test_files_of_a_change_that_a_crash_cut_are_put_back(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("before")
    transaction = FileTransaction({one: FileContents(b"after"), two: FileContents(b"new")}, tmp_path / "state")
    transaction.stage()
    transaction.install()
    config = {"files": [written(tmp_path, "a")]}
    async with driven(TemplateConsumer, config, tmp_path):
        assert one.read_text() == "before"
        assert not two.exists()


async def test_a_file_that_another_has_changed_is_written_again(tmp_path: Path) -> None:
    async with driven(TemplateConsumer, {"files": [written(tmp_path, "a")]}, tmp_path) as driver:
        await driver.apply(WEB)
        (tmp_path / "a").write_text("another")
        await driver.consumer.health()
        assert driver.applies_requested > 0
        await driver.apply(WEB)
        assert listed(tmp_path / "a") == ['server 10.0.0.1:80 "";']


PROGRAM = """
import signal, sys, time
def read(*_):
    with open(sys.argv[2], "a") as log:
        log.write(open(sys.argv[1]).read())
signal.signal(signal.SIGHUP, read)
read()
while True:
    time.sleep(60)
"""


async def test_a_program_is_run_reloaded_adopted_and_started_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "program.py").write_text(PROGRAM)
    config = {
        "files": [written(tmp_path, "a", "{{ generation }}\n")],
        "run": [sys.executable, "-S", str(tmp_path / "program.py"), str(tmp_path / "a"), str(log)],
        "reload": {"signal": "HUP"},
        "prove": ["grep", "-q", "{generation}", str(log)],
    }
    (tmp_path / "a.j2").write_text("{{ backends | length }} {{ generation }}\n")
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        assert driver.consumer.resident
        await driver.apply(WEB)
        pid = (await driver.consumer.inspect())["pid"]
        await driver.apply(WEB, API)
        assert (await driver.consumer.inspect())["pid"] == pid
        await driver.consumer.hand_over()
    assert [line.split()[0] for line in listed(log)] == ["1", "2"]
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        await driver.apply(WEB, API)
        assert (await driver.consumer.inspect())["pid"] == pid
        os.kill(pid, 9)
        await eventually(lambda: driver.applies_requested > 0, "the end of the program to be noticed")
        assert "does not run" in (await driver.consumer.health()).detail
        await driver.apply(WEB, API)
        assert (await driver.consumer.inspect())["pid"] not in (pid, None)
    assert not (driver.run_dir / "program.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": []}, "'files' is empty"),
        ({"check": []}, "the list is empty"),
        ({"prove": "http://user:secret@x:99999/"}, "a URL with a user or a password would be shown in messages"),
        ({"prove": "http://127.0.0.1:99999/"}, "is not the address of a request"),
        ({"reload": {"url": "http:///x"}}, "is not the address of a request"),
        ({"check": "nginx -t"}, "is text, which would need a shell: write the program and its arguments as a list"),
        (
            {"reload": "nginx -s reload"},
            "is text, which would need a shell: write the program and its arguments as a list",
        ),
        ({"run": "nginx -g x"}, "is text, which would need a shell: write the program and its arguments as a list"),
        ({"reload": {"signal": "HUP"}}, "the signal of 'reload' needs a program: set its 'pid_file', or 'run'"),
        ({"reload": {"signal": "NONE", "pid_file": "/x"}}, "'NONE' is not the name of a signal"),
        ({"reload": {"command": ["x"], "url": "http://x"}}, "exactly one of 'command', 'signal' and 'url'"),
        ({"prove": {"command": ["x"], "contains": "y"}}, "'contains' is for a 'url'"),
        ({"files": [{"template": "builtin:none", "file": "/x"}]}, "there is no template 'builtin:none'"),
        ({"files": [{"template": "/x", "file": "/y", "format": "toml"}]}, "should be 'nginx', 'apache', 'caddyfile'"),
        ({"files": [{"template": "builtin:json"}]}, "Field required"),
        ({"files": [{"template": "builtin:json", "file": "/x", "check": [7, "{file}"]}]}, "a valid string"),
        ({"files": [{"template": "builtin:json", "file": "/x", "mode": 644}]}, "644 is not the mode of a file: write"),
        ({"files": [{"template": "builtin:json", "file": "/x", "mode": "rw-"}]}, "'rw-' is not the mode of a file"),
        ({"files": [{"template": "builtin:json", "file": "/x", "mode": "7777"}]}, "'7777' is not the mode of a file"),
        ({"files": [{"template": "builtin:json", "file": "/x", "check": ["x"]}]}, "names the staged file as '{file}'"),
        ({"files": [{"template": "builtin:json", "file": "/x"}] * 2}, "two templates write /x"),
        ({"files": [{"template": "builtin:json", "file": f} for f in ("/x", "/y/../x")]}, "two templates write /x"),
        ({"files": [{"template": "/x.j2", "file": "/y/../x.j2", "format": "plain"}]}, "/x.j2 is a template"),
    ],
)
def test_a_mistake_is_told_with_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TemplateConsumer.Config.model_validate({"files": [{"template": "builtin:json", "file": "/y"}], **options})
    (error,) = caught.value.errors()
    assert message in error["msg"]


async def test_a_directory_in_the_place_of_a_file_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    config = {"files": [{"template": "builtin:json", "file": str(tmp_path / "place")}]}
    async with driven(TemplateConsumer, config, tmp_path) as driver:
        before = len([*Path("/proc/self/fd").iterdir()])
        for _ in range(10):
            with pytest.raises(ApplyError, match="place is a directory: name a file"):
                await driver.apply()
        assert len([*Path("/proc/self/fd").iterdir()]) < before + 10
