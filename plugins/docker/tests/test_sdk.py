"""Docker's SDK beside versions of requests that need a detector of character sets, and that need none."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

OLD = """
try:
    import chardet
except ImportError:
    import charset_normalizer as chardet
__path__ = [{real!r}]
exec(compile(open({real!r} + "/__init__.py").read(), "requests", "exec"))
"""
"""The installed requests, but for the import of a detector, which versions before 2.32 cannot do without."""


@pytest.mark.parametrize("needs_a_detector", [True, False])
def test_the_sdk_loads(tmp_path: Path, needs_a_detector: bool) -> None:
    found = importlib.util.find_spec("requests")
    assert found is not None
    assert found.origin is not None
    if needs_a_detector:
        (tmp_path / "requests").mkdir()
        (tmp_path / "requests" / "__init__.py").write_text(OLD.format(real=str(Path(found.origin).parent)))
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import discovery_docker.sdk as sdk
assert ("charset_normalizer" in sys.modules or "chardet" in sys.modules) is {needs_a_detector}, "detectors"
print(sdk.docker.APIClient.__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("APIClient", "")
