"""Hashes of 20 transfers on every CPU backend, to tell whether a change moved a pixel.

    python tests/golden/record.py FILE.json [--cpp BUILD]

writes them, and 4b35470/transfers.json beside this file is what they were at that
revision; `--cpp` names a build folder of the C++ library with its examples (`tests/cpp` leaves
one where GARMENT_TRANSFER_CPP_BUILD says). Two files from one machine are equal unless pixels
moved; another processor may round otherwise, so the hashes are no test.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people

ROOT = Path(__file__).parents[2]
BACKENDS: dict[str, dict[str, Any]] = {
    "onnxruntime": {},
    "onnxruntime-standard": {"kernel": False},
    "openvino": {},
}


def pairs() -> list[tuple[Path, Path]]:
    """20 ordered pairs of the six people in the package."""
    people = [*sample_people(), *sorted((ROOT / "cli/assets/people").iterdir())]
    return list(itertools.permutations(people, 2))[:20]


def digest(array: np.ndarray) -> str:
    """The hash of an array's dtype, shape and bytes."""
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--cpp", type=Path)
    arguments = parser.parse_args()
    recorded: dict[str, list[Any]] = {}
    for name, options in BACKENDS.items():
        backend = name.partition("-")[0]
        with Pipeline.load(sample_bundle(), backend, threads=1, **options) as pipeline:
            transfers = [
                pipeline.transfer(Person.load(person), Person.load(owner))
                for person, owner in pairs()
            ]
        recorded[name] = [
            {
                field: digest(getattr(transfer, field))
                for field in ("image", "transfer_parsing", "warped_garment", "flow")
            }
            for transfer in transfers
        ]
    if arguments.cpp:
        recorded["cpp"] = []
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "picture.png")
            program = arguments.cpp / "examples/garment_transfer_cli"
            for person, owner in pairs():
                subprocess.run([program, sample_bundle(), person, owner, output], check=True)
                recorded["cpp"].append({"image": digest(np.asarray(Image.open(output)))})
    arguments.file.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
