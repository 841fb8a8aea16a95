"""Lays out the root file systems of the images, from this machine's programs and from the wheels of this tree.

An image has no distribution beneath: Debian's Python with its standard library, the shared libraries that `ldd` names,
tini as process 1, CA certificates, and /opt/discovery, an environment with discovery and every plugin. Versions are
those of the environment that runs this program, so that an image has what the tests have tested.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
USER = 65532
"""The user and group id of the images' processes, as in other images without a distribution ("nonroot")."""
OWNED = ("run/discovery", "var/lib/discovery")
"""The directories of an image that belong to `USER`. All else belongs to root."""

_ENVIRONMENT = Path("opt/discovery")
_BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
_UNUSED = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "__pycache__"}
"""Directories of the standard library: tests, graphics, installers."""
_INSTALLED = {"site-packages", "dist-packages"}
"""Directories beside the standard library, in a Python that is not Debian's: whatever this machine has installed."""
_UNUSED_MODULES = re.compile(r"(_test|xx|_xx|_tkinter|_curses|_dbm|_gdbm|nis|ossaudiodev|readline|_ctypes_test)")
"""Extension modules whose libraries would be the only users of these: terminals, databases, NIS, sound."""
_NEVER_LOADED = ("rich", "pygments", "markdown_it", "markdown_it_py", "mdurl")
"""Packages for coloured help and tracebacks, which typer installs and `discovery` turns off: 12 MB."""
_PASSWD = f"root:x:0:0:root:/:/\nnobody:x:65534:65534:nobody:/:/\ndiscovery:x:{USER}:{USER}::/var/lib/discovery:/\n"
_GROUP = f"root:x:0:\nnogroup:x:65534:\ndiscovery:x:{USER}:\n"
_COMMAND = f"#!/{_ENVIRONMENT}/bin/python\nimport sys\n\nfrom discovery.cli import main\n\nsys.exit(main())\n"


class MissingError(Exception):
    """This machine lacks what an image is made of; the message says what to install."""


def lay_out(directory: Path) -> None:
    """Lay out every root file system below `directory`, each named after its image. Raises MissingError."""
    _discovery(directory / "discovery")
    _apache(directory / "apache")
    _haproxy(directory / "haproxy", without=directory / "discovery")


def _discovery(root: Path) -> None:
    _foundation(root)
    _directory(root / "tmp", mode=0o1777)
    for place in OWNED:
        _directory(root / place, mode=0o700, owner=USER)
    (root / "var/run").symlink_to("/run")
    _python(root)
    _environment(root)
    _copy_programs(root, [_program("tini", "tini"), *root.rglob("*.so"), *root.rglob("*.so.*")])
    _certificates(root)


def _python(root: Path) -> None:
    """Copy the interpreter under its own name and as `python3`, and the standard library."""
    interpreter = Path(sys.executable).resolve()
    _copy_programs(root, [interpreter])
    _link(root / "usr/bin/python3", interpreter)
    library = Path(sysconfig.get_path("stdlib"))
    copy_library(library, root / library.relative_to("/"))


def copy_library(library: Path, target: Path) -> None:
    """Copy a standard library, without what no image uses and without the packages that are installed beside it."""

    def unused(directory: str, names: list[str]) -> set[str]:
        if Path(directory).name == "lib-dynload":
            return {name for name in names if _UNUSED_MODULES.match(name)}
        left_out = _UNUSED | _INSTALLED | {"EXTERNALLY-MANAGED"}
        return {name for name in names if name in left_out or name.startswith("config-")}

    # Debian's directory has links to files outside of it.
    shutil.copytree(library, target, ignore=unused)


def _environment(root: Path) -> None:
    """Install discovery and its plugins as wheels that are built from this tree."""
    environment = root / _ENVIRONMENT
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = environment / "lib" / version / "site-packages"
    projects = [ROOT, *(each.parent for each in sorted(ROOT.glob("plugins/*/pyproject.toml")))]
    with tempfile.TemporaryDirectory() as temporary:
        wheels, constraints = Path(temporary, "wheels"), Path(temporary, "constraints.txt")
        constraints.write_text("".join(sorted(_tested_versions())))
        # One environment to build all of them in, where pip would make one for each.
        backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        _pip("install", "--target", Path(temporary, "backend"), *backend)
        wheel = ("--no-deps", "--no-build-isolation", "--wheel-dir", wheels)
        _pip("wheel", *wheel, *projects, PYTHONPATH=str(Path(temporary, "backend")))
        install = ("--no-compile", "--only-binary", ":all:", "--constraint", constraints, "--target", packages)
        _pip("install", *install, *sorted(wheels.glob("*.whl")))
    shutil.rmtree(packages / "bin")  # scripts that name this machine's interpreter
    for record in packages.glob("*.dist-info/direct_url.json"):  # paths of this machine
        record.unlink()
    for pattern in (*_NEVER_LOADED, *(f"{name}-*.dist-info" for name in _NEVER_LOADED)):
        for found in packages.glob(pattern):
            shutil.rmtree(found)
    bin_ = environment / "bin"
    bin_.mkdir()
    (bin_ / "python").symlink_to("/usr/bin/python3")
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (bin_ / "discovery").write_text(_COMMAND)
    (bin_ / "discovery").chmod(0o755)
    _directory(environment / "libexec")
    shutil.copy(HERE / "socket_group.py", environment / "libexec/socket_group.py")
    for place in (environment, root / Path(sysconfig.get_path("stdlib")).relative_to("/")):
        _compile(root, place, docstrings=False)
    for place in packages.glob("discovery*/"):  # whose docstrings are the help of its commands
        _compile(root, place, docstrings=True)


def _tested_versions() -> Iterator[str]:
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if not name.startswith("discovery-"):
            yield f"{name}=={distribution.version}\n"


def _compile(root: Path, place: Path, *, docstrings: bool) -> None:
    """Write bytecode that names no time and no path of this machine: the file system of a container is read-only.

    The docstrings and assertions of libraries take 2 MiB of each process.
    """
    compileall.compile_dir(
        place,
        force=True,
        optimize=0 if docstrings else 2,
        quiet=2,  # packages carry files for other versions of Python
        workers=0,
        stripdir=str(root),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    for optimized in place.rglob("*.opt-2.pyc"):
        optimized.rename(optimized.with_name(optimized.name.replace(".opt-2", "")))


def _certificates(root: Path) -> None:
    import ssl

    bundle = Path("/", _BUNDLE)
    if not bundle.exists():
        raise MissingError(f"{bundle} is missing: install the package ca-certificates")
    _write(root / _BUNDLE, bundle.read_bytes())
    # Where OpenSSL looks by default.
    if default := ssl.get_default_verify_paths().openssl_cafile:
        _link(root / default.lstrip("/"), bundle)


def _apache(root: Path) -> None:
    program = _program("apache2", "apache2-bin")
    configuration = (HERE / "examples/apache.conf").read_text()
    modules = map(Path, re.findall(r"^LoadModule \S+ (\S+)$", configuration, re.MULTILINE))
    _foundation(root)
    for place in ("run", "tmp"):
        _directory(root / place, mode=0o1777)
    # The last is loaded while Apache runs, which ldd does not know.
    _copy_programs(root, [program, *modules, _loadable("libgcc_s.so.1")])
    _write(root / "etc/apache2/apache2.conf", configuration.encode())
    _write(root / "srv/index.html", b"hello from apache\n")


def _haproxy(root: Path, without: Path) -> None:
    """Lay out what the image adds to the files below `without`."""
    _copy_programs(root, [_program("haproxy", "haproxy")])
    for path in sorted(root.rglob("*"), reverse=True):
        if (without / path.relative_to(root)).is_file():
            path.unlink()
    for link in root.iterdir():
        if link.is_symlink():
            link.unlink()


def _foundation(root: Path) -> None:
    """Make the directories in Debian's order, and the accounts."""
    for link in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / link).mkdir(parents=True)
        (root / link).symlink_to(f"usr/{link}")
    _write(root / "etc/passwd", _PASSWD.encode())
    _write(root / "etc/group", _GROUP.encode())
    _write(root / "etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")


def _program(name: str, package: str) -> Path:
    found = shutil.which(name, path=f"/usr/sbin:/usr/bin:{os.environ.get('PATH', os.defpath)}")
    if found is None:
        raise MissingError(f"the program {name} is missing: install the package {package}")
    return Path(found).resolve()


def _loadable(name: str) -> Path:
    for line in _output("/sbin/ldconfig", "-p").splitlines():
        if line.split()[:1] == [name]:
            return Path(line.split()[-1])
    raise MissingError(f"the library {name} is missing")


def _copy_programs(root: Path, programs: Iterable[Path]) -> None:
    """Copy programs and libraries, and every shared library of these, to the places where the loader looks."""
    programs = list(programs)
    libraries = map(Path, re.findall(r"(/\S+) \(0x", _output("ldd", *programs)))
    for path in {*programs, *libraries}:
        if not path.is_relative_to(root):  # what a wheel carries, and its libraries, are there
            _copy(root, path)


def _copy(root: Path, path: Path) -> None:
    # The directories of Debian are links: /lib is /usr/lib.
    place = root / (path.parent.resolve() / path.name).relative_to("/")
    if not place.exists():
        _write(place, path.read_bytes())
        place.chmod(0o755)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.symlink_to(target)


def _directory(path: Path, mode: int = 0o755, owner: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if owner and os.geteuid() == 0:
        os.chown(path, owner, owner)


def _pip(*arguments: str | Path, **environment: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *arguments]
    subprocess.run(command, env={**os.environ, **environment}, check=True)


def _output(*command: str | Path) -> str:
    """Return what a command prints; ldd fails for what is no program, and prints the reason."""
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
