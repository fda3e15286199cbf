"""The code of README and of the pages runs as it stands, block after block."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# As of a user: none of the settings of the tests.
OURS = {"XLA_FLAGS", "OPENBLAS_NUM_THREADS", "TF_CPP_MIN_LOG_LEVEL", "MFJAX_TEST_PROGRAMS"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in OURS}
ENVIRONMENT["PYTHONPATH"] = str(ROOT)
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [path for path in DOCUMENTS if "```python" in path.read_text()]


@pytest.mark.slow_cases("README.md")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_code_of_a_page_runs(page, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(blocks))
    command = [sys.executable, "-W", "error", script.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    if page.name == "README.md":
        assert {"circle.png", "circle.pdf", "density.nc", "digits.npz"} <= {
            path.name for path in tmp_path.iterdir()
        }
    if page.name == "own_stepper.md":
        assert abs(float(done.stdout) - 2) < 0.1
