"""The README's figures are those of the committed results."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_readme_tables_are_made_from_the_results():
    # from the checkout: an installed package does not carry the results
    tables = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("<!-- table:") == len(tables["TABLES"])
    assert tables["filled"](readme) == readme
