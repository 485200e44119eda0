import importlib
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from garment_transfer import Code, InputError
from garment_transfer.cli.main import main

CLI = Path(__file__).parents[2] / "cli"

#: Every module that has a command.
COMMANDS = {path.stem for path in CLI.glob("*.py") if "\ndef command(" in path.read_text()}

HEAVY = {
    *("anny", "cv2", "gradio", "matplotlib", "numpy", "onnx", "onnxruntime", "openvino", "PIL"),
    *("psutil", "torch", "tqdm", "warp"),
}


def test_help_imports_nothing_heavy():
    """One child process for all, so whatever any of them imports shows from there on."""
    calls = [["--help"], ["-h"], ["--version"], *([name, "--help"] for name in sorted(COMMANDS))]
    code = (
        "import sys\n"
        "from garment_transfer.cli.main import main\n"
        f"for arguments in {calls}:\n"
        "    try:\n"
        "        main(arguments)\n"
        "    except SystemExit as end:\n"
        f"        print(*arguments, end.code, *({HEAVY} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [f"{' '.join(arguments)} 0" for arguments in calls]


def test_help_lists_every_command_in_the_folder(invoke):
    _, _, listed = invoke("--help").partition("Commands:\n")
    assert sorted(line.split()[0] for line in listed.splitlines() if line) == sorted(COMMANDS)


def test_unknown_command(invoke):
    printed = invoke("transfr", code=2)
    assert "No such command 'transfr'" in printed


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Makes the command `doctor` raise."""

    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr("garment_transfer.cli.doctor.command", command)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError(Code.IMAGE_MISSING, "a is wrong", fix="do b"), "Error: a is wrong; do b\n"),
        (PermissionError(13, "Permission denied", "x.png"), "Error: x.png: Permission denied\n"),
        (OSError("odd"), "Error: odd\n"),
        (
            ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"),
            "Error: doctor needs the package torch, which is not installed; run "
            '`pip install "garment-transfer[cpu]"`, or `pip install ".[cpu]"` in a copy of the '
            "repository\n",
        ),
    ],
)
def test_errors_are_one_line(invoke, monkeypatch, error, expected):
    fail_with(monkeypatch, error)
    printed = invoke("doctor", code=1)
    assert printed == expected


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--debug", "doctor"], InputError(Code.IMAGE_MISSING, "a is wrong")),
        (["doctor"], ZeroDivisionError("x")),
        (["doctor"], ModuleNotFoundError("x")),
    ],
)
def test_debug_and_defects_show_the_traceback(monkeypatch, arguments, error):
    fail_with(monkeypatch, error)
    assert CliRunner().invoke(main, arguments).exception is error


def test_rendering_that_cannot_begin_leaves_nothing(invoke, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "garment_transfer.training.synthetic", None)
    invoke("render", "-o", tmp_path / "people", code=1)
    assert not (tmp_path / "people").exists()


def test_a_command_whose_import_lacks_a_package(invoke, monkeypatch):
    def import_module(name: str) -> None:
        raise ModuleNotFoundError("No module named 'anny'", name="anny")

    monkeypatch.setattr(importlib, "import_module", import_module)
    printed = invoke("render", code=1)
    assert "render needs the package anny" in printed
    assert 'pip install ".[train]"' in printed
