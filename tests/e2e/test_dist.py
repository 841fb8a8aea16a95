"""`make dist`: what a release consists of is built, and works in an empty environment."""

import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from ambassadors import Directory
from collectors import collecting
from daemons import Starter
from proxies import Serve, answers

from discovery.testing import eventually_sync, free_port, require_program
from release import commands, dist, packages, singlefile, versions
from release.commands import ReleaseError

pytestmark = pytest.mark.timeout(600)
EPOCH = "1760000000"


@pytest.mark.release
def test_the_wheels_run_the_demo_in_an_empty_environment(
    tmp_path: Path, start_daemon: Starter, directory: Directory
) -> None:
    """Wheels are built from the sdists, and installed without a file of this checkout in reach."""
    for name in ("etcd", "haproxy"):
        require_program(name, wheel=False)  # the empty environment sees no wheel of this one
    packages.build(tmp_path / "dist", epoch=EPOCH)
    wheels = packages.wheels(tmp_path / "dist")
    assert len(wheels) == len(versions.distributions())
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            paths = archive.namelist()
        assert any(path.endswith("/licenses/LICENSE") for path in paths), wheel
        assert any(path.endswith("/py.typed") for path in paths), wheel
        assert not any("tests/" in path or "__pycache__" in path for path in paths), wheel
    python = commands.empty_environment(tmp_path / "environment", *wheels)
    packages.try_out(tmp_path / "environment", python.with_name("discovery"))
    said = packages.import_all(python, wheels)
    assert int(said.split()[0]) > 500
    with collecting() as collector:
        start_daemon.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        listening = [f"xds.listen=127.0.0.1:{free_port()}", f"dns.listen=127.0.0.1:{free_port()}"]
        options = [each for one in listening for each in ("--plugin", one.partition(".")[0], "--set", one)]
        daemon = start_daemon("--registry", directory.url, *options, program=python.with_name("discovery"))
        eventually_sync(daemon.is_ready, timeout=60)
        directory.put("web", 1001)
        eventually_sync(
            lambda: {"xds", "dns"} <= {each.attributes.get("discovery.consumer") for each in tuple(collector.spans)},
            timeout=60,
        )
        assert {each.resource["service.version"] for each in collector.spans} == {versions.version()}
        assert daemon.stop() == 0
    dist.write_sums(tmp_path / "dist")
    subprocess.run(["sha256sum", "--check", "--strict", dist.SUMS], cwd=tmp_path / "dist", check=True)


@pytest.mark.costly
@pytest.mark.release
def test_the_single_file_runs_the_demo_and_the_workers_of_the_tcp_proxy(
    tmp_path: Path, start_daemon: Starter, directory: Directory, named: Serve
) -> None:
    """Plugins are found in it, and what runs as `sys.executable -m ...` finds its modules."""
    for name in ("etcd", "haproxy"):
        require_program(name, wheel=False)
    packages.build(tmp_path / "dist", epoch=EPOCH)
    single = singlefile.build(tmp_path / "dist", packages.wheels(tmp_path / "dist"), versions.version(), epoch=EPOCH)
    root = str(tmp_path / "pex")
    packages.try_out(tmp_path, single, PEX_ROOT=root)
    directory.put("web", named("one").port)
    start_daemon.environment["PEX_ROOT"] = root
    port = free_port()
    options = ("--plugin", "tcpproxy", "--set", f"tcpproxy.listen.web=127.0.0.1:{port}")
    daemon = start_daemon("--registry", directory.url, *options, program=single)
    answers(port, "one")
    assert daemon.stop() == 0


@pytest.mark.exhaustive
@pytest.mark.release
def test_the_order_in_which_libraries_of_the_same_files_are_installed_does_not_matter(tmp_path: Path) -> None:
    """opentelemetry-proto, which other software in the environment may need, and xds-protos have files in common."""
    packages.build(tmp_path / "dist", epoch=EPOCH)
    wheels = packages.wheels(tmp_path / "dist")
    python = commands.empty_environment(tmp_path / "environment", *wheels, "opentelemetry-proto")
    for last in ("opentelemetry-proto", "xds-protos"):
        commands.run(python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", last)
        packages.import_all(python, wheels)


@pytest.mark.exhaustive
@pytest.mark.release
def test_two_builds_are_equal(tmp_path: Path) -> None:
    for name in ("one", "other"):
        packages.build(tmp_path / name, epoch=EPOCH)
        dist.write_sums(tmp_path / name)
    assert (tmp_path / "one" / dist.SUMS).read_text() == (tmp_path / "other" / dist.SUMS).read_text()


def test_an_sdist_has_the_sources_and_no_tests(tmp_path: Path) -> None:
    project = versions.ROOT / "plugins/tcpproxy"
    commands.module("build", "--no-isolation", "--sdist", "--outdir", tmp_path, project, SOURCE_DATE_EPOCH=EPOCH)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        paths = {path.partition("/")[2] for path in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "discovery_tcpproxy/plugin.py"} <= paths
    assert not [path for path in paths if path.startswith("tests/")]


def test_a_step_that_fails_names_its_command_and_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"(?s)exit code 3 of sh -c .*:\nno room left"):
        commands.run("sh", "-c", "echo no room left >&2; exit 3", cwd=tmp_path)


def test_what_is_set_for_this_python_reaches_no_empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "DISCOVERY_REGISTRY", "VIRTUAL_ENV", "PEX_ROOT"):
        monkeypatch.setenv(name, "/foreign")
    assert "/foreign" not in commands.environment().values()
