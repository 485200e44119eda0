"""What a release consists of: one version everywhere, files by their schemas, the site."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import garment_transfer

ROOT = Path(__file__).parents[1]
VERSION = garment_transfer.__version__


def test_one_version():
    header = ROOT / "runtime/cpp/include/garment_transfer/garment_transfer.h"
    assert f'#define GT_VERSION "{VERSION}"' in header.read_text()
    newest = re.search(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] in (VERSION, "Unreleased")
    images = [
        image
        for file in (ROOT / "examples/kubernetes").glob("*.yaml")
        for image in re.findall(r"image: garment-transfer-\w+:(\S+)", file.read_text())
    ]
    assert images
    assert set(images) == {VERSION}


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/*.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_schemas(schema, files):
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    found = sorted(ROOT.glob(files))
    assert found
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    # a citation file is YAML by another name
    done = subprocess.run(
        [*command, "--default-filetype", "yaml", *found], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_actions_are_pinned():
    for file in (ROOT / ".github/workflows").glob("*.yml"):
        for action in re.findall(r"uses: (\S+)", file.read_text()):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), f"{file.name}: {action}"


def test_site(tmp_path):
    """It builds without a warning, has both references, and loads nothing from elsewhere."""
    pytest.importorskip("mkdoxy", reason="the extra docs is not installed")
    if shutil.which("doxygen") is None:
        pytest.skip("doxygen is not installed: apt-get install doxygen")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    python = (tmp_path / "docs/python/index.html").read_text()
    assert 'id="garment_transfer.Pipeline.transfer_batch"' in python
    c = (tmp_path / "cpp/garment__transfer_8h/index.html").read_text()
    assert "On success *session is to be freed" in re.sub(r"<[^>]+>", "", c)
    person = (tmp_path / "cpp/structgt__person__source/index.html").read_text()
    assert "what messages call the person" in person
    assert (tmp_path / "docs/benchmark.png").is_file()
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]*)', page.read_text()
        )
        assert not loaded, page
