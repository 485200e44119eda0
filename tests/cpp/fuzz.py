"""Runs both fuzz targets of a build folder, and prints what they report as JSON.

python tests/cpp/fuzz.py BUILD EXECUTIONS [--json FILE]
"""

import argparse
import json
import os
import runpy
import subprocess
import tempfile
import time
from pathlib import Path

from garment_transfer.runtime import sample_bundle

# SHA-256 of the one byte "x", which is what fuzz_manifest's graphs hold.
_X = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def main() -> None:
    """Both targets, so many times each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("executions", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    what = "fuzz targets of the C++ library with AddressSanitizer, UBSan and LeakSanitizer"
    report: dict[str, object] = {"what": what}
    with tempfile.TemporaryDirectory() as folder:
        # a manifest that is valid for fuzz_manifest's folder, and a bundle that runs fast
        seed = Path(folder) / "seed.json"
        manifest = json.loads((sample_bundle() / "manifest.json").read_text())
        for graph in manifest["graphs"].values():
            graph.update(bytes=1, sha256=_X)
        seed.write_text(json.dumps(manifest))
        tiny = Path(folder) / "tiny"
        tiny.mkdir()
        runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))["write_tiny_bundle"](tiny)
        for target, corpus in (("fuzz_manifest", [seed]), ("fuzz_api", [])):
            start = time.monotonic()
            ran = subprocess.run(
                [options.build / "tests" / target, f"-runs={options.executions}", "-seed=1",
                 *corpus],
                env={**os.environ, "GARMENT_TRANSFER_TINY": str(tiny)},
                check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            seconds = round(time.monotonic() - start, 1)
            report[target] = {**json.loads(ran.stdout), "seconds": seconds}
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
