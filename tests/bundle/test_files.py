"""Folders that are written whole or not at all."""

import os
from pathlib import Path

import pytest

from garment_transfer.bundle import OutputError, replacing_folder


def write(path: Path, content: str) -> None:
    with replacing_folder(path) as folder:
        (folder / "file").write_text(content)


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "above" / "folder"
    write(path, "old")
    (path / "more").write_text("goes with it")
    write(path, "new")
    assert [(file.name, file.read_text()) for file in path.iterdir()] == [("file", "new")]
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write(path, "old")

    def spoil() -> None:
        with replacing_folder(path) as folder:
            (folder / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spoil()
    assert (path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_folder_comes_back_when_the_new_one_cannot_be_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    write(path, "old")
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if target == path and not str(source).endswith(".old"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=r"folder cannot be written: No space left on device"):
        write(path, "new")
    assert (path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=r"file/folder cannot be written: "):
        write(tmp_path / "file" / "folder", "new")
