"""Writes the JSON schemas of manifests and records beside this file, from the structs.

python -m garment_transfer.bundle
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from garment_transfer.bundle import EngineRecord, Manifest, replacing


def schemas() -> dict[str, str]:
    """The text of each schema file by its name."""
    texts = {}
    for name, struct in (("manifest", Manifest), ("record", EngineRecord)):
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **msgspec.json.schema(struct),
        }
        texts[f"{name}.schema.json"] = json.dumps(schema, indent=2) + "\n"
    return texts


def main() -> None:
    """Writes the files."""
    for name, text in schemas().items():
        with replacing(Path(__file__).with_name(name)) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
