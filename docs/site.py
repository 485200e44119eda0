"""A hook of mkdocs: pages lie on the site as in the repository, so that links hold in both."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Puts docs/ below its own name, beside the repository's other documents and what they name."""
    root = Path(config.config_file_path).parent
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    pages = {page for glob in ("*.md", "docs/*.md", "examples/*/*.md") for page in root.glob(glob)}
    for page in list(pages):
        named = _LINK.findall(page.read_text(encoding="utf-8"))
        pages |= {(page.parent / name).resolve() for name in named}
    for page in sorted(pages):
        path = page.relative_to(root).as_posix()
        files.append(File(path, str(root), config.site_dir, config.use_directory_urls))
    return files
