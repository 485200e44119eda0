"""Wheels in pieces."""

import random
import re
import subprocess
import sys
import zipfile

from garment_transfer.benchmarks import wheels


def test_split_and_joined_again(tmp_path):
    rng = random.Random(0)
    sizes = {"a.whl": 10, "b.whl": 2500, "c.whl": 0, "d.whl": 700}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(rng.randbytes(size))
    files = [tmp_path / name for name in sizes]
    size = 1000
    count = wheels.split(files, tmp_path / "pieces", size)
    pieces = sorted((tmp_path / "pieces").iterdir())
    assert [path.name for path in pieces] == [f"{i:02}" for i in range(count)]
    for piece in pieces:
        assert sum(path.stat().st_size for path in piece.iterdir()) <= size
    target = tmp_path / "joined"
    target.mkdir()
    whole, parts = wheels.join(tmp_path / "pieces", target)
    assert parts == []
    for path, made in zip(files, whole, strict=True):
        assert made.read_bytes() == path.read_bytes()

    for path in pieces[2].iterdir():
        path.unlink()
    whole, parts = wheels.join(tmp_path / "pieces", target)
    assert "b.whl" in parts
    assert "a.whl" in [path.name for path in whole]


def test_what_is_whole_is_installed(invoke, tmp_path):
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing.py", "answer = 42\n")
        archive.writestr("thing-1.0.dist-info/METADATA", "Name: thing\nVersion: 1.0\n")
        archive.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("thing-1.0.dist-info/RECORD", "")
    wheels.split([wheel], tmp_path / "pieces", 700)
    site = tmp_path / "site"
    printed = invoke("install", tmp_path / "pieces", site, command=wheels.main)
    assert printed == f"installed {wheel.name}\n"
    run = [sys.executable, "-c", "import thing; print(thing.answer)"]
    assert subprocess.check_output(run, cwd=site) == b"42\n"

    next((tmp_path / "pieces").glob(f"00/{wheel.name}.*")).unlink()
    printed = invoke("install", tmp_path / "pieces", site, command=wheels.main)
    assert printed == f"not whole yet: {wheel.name}\n"


def test_install_needs_none_of_the_package(tmp_path):
    run = [sys.executable, "-X", "importtime", wheels.__file__, "install", "--help"]
    imported = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path).stderr
    assert "click" in imported
    # an editable install has a finder of its own, whose name ends so
    assert not re.search(r"\| +garment_transfer", imported)
