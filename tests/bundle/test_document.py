"""docs/bundle.md says what the structs say."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from garment_transfer import sample_bundle
from garment_transfer.bundle import (
    CLASSES,
    MAPS,
    RECORD_VERSION,
    SCHEMA_VERSION,
    Bundle,
    Code,
    EngineRecord,
    EngineSet,
    Manifest,
    Number,
    Share,
    Signature,
    Size,
    _json,
    _labels,
    contract,
    maps_contract,
)

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
STRUCTS = {
    name: struct
    for kind in (Manifest, EngineRecord)
    for name, struct in msgspec.json.schema(kind)["$defs"].items()
}
TYPES = {
    name: msgspec.json.schema(kind)
    for name, kind in {
        **{name: vars(_json)[name] for name in ("Text", "Count", "Positive")},
        **{"Number": Number, "Share": Share},
        **{name: vars(_json)[name] for name in ("Sha256", "FileName", "Time")},
    }.items()
}


def table(heading: str, header: str) -> list[list[str]]:
    """The cells of the table in a section, by the section's heading and the table's header."""
    (text,) = re.findall(rf"^#+ `?{heading}`?\n(.*?)(?=^#|\Z)", DOCUMENT, re.M | re.S)
    rows = text.split(f"| {header} |\n", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    return [[cell.strip().replace(r"\|", "|") for cell in row] for row in cells]


def unquoted(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


def rule(schema: dict[str, Any], named: bool = True) -> str:
    """A type as the document writes it."""
    schema = {key: value for key, value in schema.items() if key != "description"}
    if "default" in schema:
        default = json.dumps(schema.pop("default"))
        return f"{rule(schema)}, absent: `{default}`"
    for name, kind in TYPES.items():
        if named and schema == {key: kind[key] for key in kind if key != "description"}:
            return f"`{name}`"
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        return " or ".join(map(rule, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    for kind, word, items, least in (
        ("array", "list of", "items", "minItems"),
        ("object", "map to", "additionalProperties", "minProperties"),
    ):
        if schema["type"] == kind:
            inner = rule(schema[items])
            inner = f"({inner})" if " or " in inner or ", at" in inner else inner
            return f"{word} {inner}" + (f", at least {schema[least]}" if least in schema else "")
    if "pattern" in schema:
        return f"string `{schema['pattern']}`"
    signs = {"minimum": ">= {}", "maximum": "<= {}", "multipleOf": "multiple of {}"}
    bounds = [sign.format(schema[key]) for key, sign in signs.items() if key in schema]
    if "minLength" in schema:
        return "string, not empty"
    return f"{schema['type']} {', '.join(bounds)}".strip()


def test_types():
    rows = [row[:2] for row in table("manifest.json", "type | JSON | note")]
    assert rows == [[f"`{name}`", rule(kind, named=False)] for name, kind in TYPES.items()]


def test_every_struct_has_a_section():
    assert set(re.findall(r"^### `(\w+)`$", DOCUMENT, re.M)) == set(STRUCTS)


@pytest.mark.parametrize("name", STRUCTS)
def test_fields(name):
    struct = STRUCTS[name]
    fields = struct["properties"]
    assert not struct["additionalProperties"]
    assert struct["required"] == [key for key in fields if "default" not in fields[key]]
    rows = [row[:2] for row in table(name, "field | type | meaning")]
    assert rows == [[f"`{key}`", rule(kind)] for key, kind in fields.items()]


def test_limits():
    numbers = {
        name: [int(number) for number in re.findall(r"\d+", limit)]
        for name, limit, _ in table("Limits", "name | limit | of")
    }
    side = STRUCTS["Size"]["properties"]["height"]
    record = STRUCTS["EngineRecord"]["properties"]
    assert numbers == {
        "JSON size": [_json.MAX_JSON_BYTES],
        "side": [side["minimum"], side["maximum"], side["multipleOf"]],
        "opset": [STRUCTS["Manifest"]["properties"]["opset"]["minimum"]],
        "graphs": [STRUCTS["Manifest"]["properties"]["graphs"]["minProperties"]],
        "manifest schema": [SCHEMA_VERSION],
        "record schema": [RECORD_VERSION],
        "optimization level": [record["optimization_level"][key] for key in ("minimum", "maximum")],
        "batch": [STRUCTS["Batch"]["properties"]["min"]["minimum"]],
    }

    def depth(value: Any) -> int:
        values = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth, values)) if isinstance(value, dict | list) else 0

    nesting = depth(json.loads((sample_bundle() / "manifest.json").read_bytes()))
    assert f"more than {nesting} deep" in DOCUMENT


def test_graphs():
    size = Size(64, 32)
    for heading, signatures in (
        ("The graphs", dict[str, Signature](contract(size))),
        ("The graph of photos", {MAPS: maps_contract(size)}),
    ):
        rows = table(heading, "graph | inputs | outputs")
        assert [list(map(unquoted, row)) for row in rows] == [
            [[stage], [t.name for t in signature.inputs], [t.name for t in signature.outputs]]
            for stage, signature in signatures.items()
        ]
        tensors = {t.name: t for s in signatures.values() for t in (*s.inputs, *s.outputs)}
        sides: dict[int | str, str] = {64: "H", 32: "W"}
        rows = table(heading, "tensor | dtype | shape | content")
        assert {row[0]: row[1:3] for row in rows} == {
            f"`{name}`": [t.dtype, f"[{','.join(sides.get(n, str(n)) for n in t.shape)}]"]
            for name, t in tensors.items()
        }
    assert ", ".join(f"`{name}`" for name in CLASSES) in DOCUMENT


def test_codes():
    codes = [row[0].strip("`") for row in table("Codes", "code | raised by")]
    sources = [(ROOT / "bundle" / name).read_text() for name in ("_manifest.py", "_record.py")]
    assert set(codes) == {
        Code[name].value for name in re.findall(r"Code\.([A-Z_]+)", "".join(sources))
    }
    bad = json.loads(Path(__file__).with_name("bad_bundles.json").read_text())
    assert {case["code"] for case in bad} <= set(codes)
    assert {code for code in unquoted(DOCUMENT) if code in set(Code)} == set(codes)


def test_examples():
    blocks = re.findall(r"^```json\n(.*?)^```", DOCUMENT, re.M | re.S)
    manifest = _json.decode_struct(blocks[0].encode(), Manifest, SCHEMA_VERSION)
    record = _json.decode_struct(blocks[1].encode(), EngineRecord, RECORD_VERSION)
    _labels._label_set("of the document", json.loads(blocks[2]))
    for stage, signature in contract(manifest.size).items():
        assert manifest.graphs[stage].signature == signature
        assert set(manifest.parity[stage]) <= {tensor.name for tensor in signature.outputs}
    EngineSet(Bundle(Path(), manifest), Path(), record).check("10.16.1.11", "8.9")


def test_files():
    for names, _ in table("Files that share the format", "file | has"):
        for name in re.findall(r"`([^`]+)`", names):
            assert (ROOT / name).is_file(), name
