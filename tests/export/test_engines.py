"""Runs `engines_cases.py` in a process of its own.

Late in a long run of other tests TensorRT-RTX's library has ended the process without a word; alone
it does not, and no test may take the others with it. `pytest tests/export/engines_cases.py` runs
the cases directly, and `-m gpu` those of a GPU.
"""

import os
import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("engines_cases.py")


def test_engines(bundle):
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(CASES)],
        cwd=CASES.parents[2],
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
            "GARMENT_TRANSFER_TEST_BUNDLE": str(bundle.path),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    print(ran.stdout)
