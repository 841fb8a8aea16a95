"""Build contexts of images that hold programs of this machine: nothing is pulled."""

import io
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from discovery.system.embedded import find_program

_APACHE_CONFIG = Path(__file__).parents[2] / "images/examples/apache.conf"
"""The configuration of the image `apache` of deploy/images."""


def apache_image() -> bytes:
    """Return a build context for Debian's Apache httpd with mod_status; the header X-Container names the container."""
    binary = find_program("apache2")
    config = _APACHE_CONFIG.read_text()
    modules = map(Path, re.findall(r"^LoadModule \S+ (\S+)$", config, re.MULTILINE))
    # It is loaded while running, to cancel threads, so that ldd does not know.
    dlopened = next(
        Path(line.split()[-1]) for line in _output("ldconfig", "-p").splitlines() if "libgcc_s.so.1" in line
    )
    files: dict[Path, bytes | Path] = {
        Path("/etc/passwd"): b"root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n",
        Path("/etc/group"): b"root:x:0:\nnogroup:x:65534:\n",
        Path("/etc/httpd.conf"): config.encode(),
        Path("/srv/index.html"): b"hello from apache\n",
        Path("/run/.keep"): b"",
    }
    files |= {path: path for path in _libraries([binary, *modules, dlopened])}
    dockerfile = (
        "FROM scratch\nADD root.tar /\nENV PORT=80\nSTOPSIGNAL SIGWINCH\nEXPOSE 80\n"
        f'CMD ["{binary}", "-DFOREGROUND", "-f", "/etc/httpd.conf"]\n'
    )
    return _context(dockerfile, files)


def busybox_image() -> bytes:
    """Return a build context for a small web server, from Debian's busybox-static."""
    files: dict[Path, bytes | Path] = {
        Path("/bin/busybox"): find_program("busybox"),
        Path("/srv/index.html"): b"hello from busybox\n",
    }
    dockerfile = (
        "FROM scratch\nADD root.tar /\nSTOPSIGNAL SIGKILL\nEXPOSE 80\n"
        'CMD ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/srv"]\n'
    )
    return _context(dockerfile, files)


def etcd_image() -> bytes:
    """Return a build context for etcd and etcdctl, where their own image has them; its data are in /var/lib/etcd."""
    programs = [find_program("etcd"), find_program("etcdctl")]
    files: dict[Path, bytes | Path] = {Path("/usr/local/bin", path.name): path for path in programs}
    files |= {path: path for path in _libraries(programs) if path not in programs}
    files |= {Path("/var/lib/etcd/.keep"): b"", Path("/tmp/.keep"): b""}  # noqa: S108 - of the image
    return _context('FROM scratch\nADD root.tar /\nCMD ["/usr/local/bin/etcd"]\n', files)


def _libraries(programs: Iterable[Path]) -> Iterator[Path]:
    """Return the programs and all shared libraries of the programs; ldd fails for a program that has none."""
    seen = set()
    for program in programs:
        seen |= {program, *map(Path, re.findall(r"(/\S+) \(0x", _output("ldd", program, check=False)))}
    return iter(sorted(seen))


def _context(dockerfile: str, files: dict[Path, bytes | Path]) -> bytes:
    root = io.BytesIO()
    with tarfile.open(fileobj=root, mode="w") as tar:
        for place, content in files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            _add(tar, str(place).lstrip("/"), data)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        _add(tar, "Dockerfile", dockerfile.encode())
        _add(tar, "root.tar", root.getvalue())
    return context.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o755
    tar.addfile(entry, io.BytesIO(data))


def _output(*command: str | Path, check: bool = True) -> str:
    return subprocess.run(command, check=check, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
