"""The documents' figures are those of the committed results."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


DOCUMENTS = ("README.md", "examples/python_server/README.md")


def test_tables_are_made_from_the_results():
    # from the checkout: an installed package does not carry the results
    tables = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
    texts = [(ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS]
    assert sum(text.count("<!-- table:") for text in texts) == len(tables["TABLES"])
    for text in texts:
        assert tables["filled"](text) == text
