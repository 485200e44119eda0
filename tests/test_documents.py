"""What the documents point to is there, and their Python runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "examples/*/README.md")
    for path in sorted(ROOT.glob(pattern))
}
BLOCKS = [
    (document, code)
    for document, text in DOCUMENTS.items()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
]
NOT_RUN = {
    "docs/gpu.md": "needs a GPU, and arrays of the reader's",
    "docs/prepare.md": "needs the code and weights of other projects",
}


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links(document: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", DOCUMENTS[document]):
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), f"{document} points to {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{document}: {target}"


@pytest.mark.parametrize(("document", "code"), BLOCKS, ids=[document for document, _ in BLOCKS])
def test_python(document: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = compile(code, document, "exec")
    if document in NOT_RUN:
        pytest.skip(NOT_RUN[document])
    monkeypatch.chdir(tmp_path)
    exec(program, {})
