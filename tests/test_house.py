"""The structure: links that tools can follow, faces, and a package that is cheap to import."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "garment_transfer"
FOLDERS = ("bundle", "kernels", "models", "runtime", "export", "training", "benchmarks", "cli")


def imports() -> Iterator[tuple[str, Path, str]]:
    """Folder, file and imported module of every import of this package's own modules."""
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module]
                elif isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                for name in names:
                    if name.partition(".")[0] == "garment_transfer":
                        yield folder, file, name


def test_every_folder_is_linked():
    assert sorted(path.name for path in SOURCES.iterdir() if path.is_symlink()) == sorted(FOLDERS)
    for folder in FOLDERS:
        assert (SOURCES / folder).resolve() == ROOT / folder


def test_every_import_leads_to_a_file():
    """As a tool finds it that knows no more than `src/`, in a clone where nothing is installed."""
    found = list(imports())
    assert len(found) > 300
    for _, file, name in found:
        path = SOURCES.joinpath(*name.split(".")[1:])
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), (file, name)


def test_folders_import_each_others_face_alone():
    for folder, file, name in imports():
        parts = name.split(".")[1:]
        private = [part for part in parts if part.startswith("_")]
        assert not private or parts[0] == folder, f"{file} imports {name}"


def test_the_package_has_a_face_and_loads_little():
    script = """
import json, sys
import garment_transfer
loaded = [name for name in ("numpy", "cv2", "onnxruntime", "torch") if name in sys.modules]
names = [name for name in ("Pipeline", "Person", "Transfer", "Bundle", "sample_bundle",
    "sample_people", "GarmentTransferError", "InputError", "OutputError", "BundleError",
    "BackendError", "EngineError", "Code") if name in dir(garment_transfer)]
backends = [name for name in ("onnxruntime", "openvino", "torch") if name in sys.modules]
assert garment_transfer.runtime.Person is garment_transfer.Person
assert garment_transfer.bundle.Code is garment_transfer.Code
print(json.dumps([garment_transfer.__version__, loaded, names, backends]))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    version, loaded, names, backends = json.loads(ran.stdout)
    assert version.count(".") == 2
    assert (loaded, backends) == ([], [])
    assert len(names) == 13
