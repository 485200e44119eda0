"""Files and folders that are written whole or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from garment_transfer.bundle import Code, OutputError, replacing, replacing_folder


def write(path: Path, content: str) -> None:
    with replacing_folder(path) as folder:
        (folder / "file").write_text(content)


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    path = tmp_path / "above" / "folder"
    write(path, "old")
    (path / "more").write_text("goes with it")
    write(path, "new")
    assert [(file.name, file.read_text()) for file in path.iterdir()] == [("file", "new")]
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path):
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


def test_an_older_folder_comes_back_when_the_new_one_cannot_be_put(tmp_path, monkeypatch):
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


def test_what_stands_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=r"file/folder cannot be written: "):
        write(tmp_path / "file" / "folder", "new")


def test_pipes_and_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with (
            pytest.raises(OutputError, match=r"pipe is a pipe or a device; give the path of"),
            replacing(tmp_path / name),
        ):
            pass
    assert (tmp_path / "link").is_fifo()


def test_permissions_are_those_of_what_was_there(tmp_path):
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    secret.touch(0o600)
    folder.mkdir(0o750)
    with replacing(secret) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.unlink()
        temporary.write_text("made anew")
    write(folder, "new")
    with replacing(tmp_path / "fresh"):
        pass
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert (tmp_path / "fresh").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_contents_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    """What a crash of the machine may leave: the old, or the new whole."""
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def syncing(descriptor: int) -> None:
        sync(descriptor)
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        steps.append(f"sync {'new' if name.startswith('.') else name}")

    def replacing_(source: Path, target: Path) -> None:
        replace(source, target)
        steps.append(f"put {target.name}")

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing_)
    with replacing(tmp_path / "name") as temporary:
        temporary.write_text("new")
    assert steps == ["sync new", "put name", f"sync {tmp_path.name}"]
    steps.clear()
    write(tmp_path / "folder", "new")
    assert steps == ["sync file", "sync new", "put folder", f"sync {tmp_path.name}"]


def test_an_error_of_the_block_names_what_cannot_be_written(tmp_path):
    def fail(path: Path) -> None:
        with replacing_folder(path) as folder:
            (folder / "none" / "file").write_text("")

    def fail_to_read(path: Path) -> None:
        with replacing(path):
            (tmp_path / "none").read_text()

    with pytest.raises(OutputError, match="folder cannot be written: No such file") as error:
        fail(tmp_path / "folder")
    assert error.value.code == Code.OUTPUT_UNWRITABLE
    with pytest.raises(FileNotFoundError):  # of another file
        fail_to_read(tmp_path / "file")
    assert not list(tmp_path.iterdir())


_WRITE = """
import sys, time
from pathlib import Path
from garment_transfer.bundle import replacing, replacing_folder
with replacing(Path("a.png")) as file, replacing_folder(Path("b")) as folder:
    file.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_leaves_goes_at_the_next_run(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert len(os.listdir(tmp_path)) == 2
        # what is being written stays
        check = [
            "-c",
            "from pathlib import Path; from garment_transfer.bundle import check_writable",
        ]
        check[1] += "; check_writable(Path('c'))"
        subprocess.run([sys.executable, *check], check=True, cwd=tmp_path)
        assert len(os.listdir(tmp_path)) == 2
        process.kill()
        process.wait()
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / ".abcdef01.png").write_text("somebody else's")
    subprocess.run([sys.executable, *check], check=True, cwd=tmp_path)
    assert os.listdir(tmp_path) == [".abcdef01.png"]
