"""The documents' figures are those of the committed results."""

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables() -> dict[str, Any]:
    """The module of the checkout: an installed package does not carry the results."""
    return runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))


DOCUMENTS = [p for g in ("README.md", "docs/*.md", "examples/*/README.md") for p in ROOT.glob(g)]


def test_tables_are_made_from_the_results(tables):
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    assert sum(text.count("<!-- table:") for text in texts) == len(tables["TABLES"])
    for text in texts:
        assert tables["filled"](text) == text


def test_plot_is_made_from_the_results(tables):
    assert tables["PLOT"] in (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert tables["is_current"](ROOT / "docs" / tables["PLOT"])


def test_command(invoke, tables, tmp_path):
    file = tmp_path / "README.md"
    file.write_text("![plot](benchmark.png)\n<!-- table: latency -->\nold\n<!-- end -->\nb\n")
    invoke(file, command=tables["main"])
    text = file.read_text()
    assert text.startswith("![plot](benchmark.png)\n<!-- table: latency -->\n")
    assert text.endswith("<!-- end -->\nb\n")
    assert "torch eager" in text
    assert "old" not in text
    assert tables["is_current"](tmp_path / tables["PLOT"])
