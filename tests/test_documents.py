"""What the documents point to is there, and their commands and code run as they are written."""

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from garment_transfer import Person, Pipeline, sample_bundle, sample_people
from garment_transfer.cli.main import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "examples/*/README.md")
    for path in sorted(ROOT.glob(pattern))
}


def blocks(language: str) -> list[tuple[str, str]]:
    """Documents and their pieces of code."""
    pattern = rf"^```{language}\n(.*?)^```"
    return [
        (document, code)
        for document, text in DOCUMENTS.items()
        for code in re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    ]


BLOCKS = blocks("python")
SHELL = blocks("sh")
NOT_RUN = {
    "docs/gpu.md": "needs a GPU, and arrays of the reader's",
    "docs/prepare.md": "needs the code and weights of other projects",
}
#: Shell that is not run, by something that it holds. Its commands are parsed all the same.
SHELL_NOT_RUN = {
    "pytest": "runs the tests",
    "python -m build": "takes minutes, as RELEASE.md is followed",
    "uv run": "takes packages from elsewhere",
    ".ci/onnxruntime_headers": "fetches packages, as .ci/run does",
    "photos_test 1000000": "takes minutes",
    "cp build/pieces": "is for the machine with a GPU",
    "benchmarks.gpu": "needs a GPU",
    "benchmarks.cpp": "takes minutes",
    "benchmarks.tables": "writes documents; tests/benchmarks/test_tables.py runs it on others",
    "--backends all": "takes an hour",
    "load.py --minutes 10": "takes 15 minutes; test_load_command runs it",
    "load.py --queueing": "takes 6 minutes; test_load_beside_queueing_arithmetic runs it",
    "train ": "trains for days",
    "--people PEOPLE": "needs PyTorch for a minute, and people of the reader's",
    "--parser schp-lip": "needs models that are not part of the package",
    "--backend tensorrt": "needs TensorRT, and a GPU",
    "uvicorn": "test_the_python_server runs it",
    ":8000/transfer": "test_the_python_server runs it",
    "cmake -S examples": "the tests in tests/cpp run it as it stands",
    "garment_transfer_cli": "the tests in tests/cpp run it as it stands",
}
#: What stands for commands that are not here. Installs were made, and Slurm runs what it wraps.
STAND_INS = """
pip() { :; }
tritonserver() { :; }
sbatch() { SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_COUNT=8 bash -ec "$3"; }
"""


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links(document):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", DOCUMENTS[document]):
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), f"{document} points to {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{document}: {target}"


@pytest.mark.parametrize(("document", "code"), BLOCKS, ids=[document for document, _ in BLOCKS])
def test_python(document, code, tmp_path, monkeypatch):
    program = compile(code, document, "exec")
    if document in NOT_RUN:
        pytest.skip(NOT_RUN[document])
    monkeypatch.chdir(tmp_path)
    exec(program, {})


@pytest.fixture
def clone(tmp_path) -> Path:
    """What a reader has in the folder where they type: the repository, people, a list."""
    for entry in ROOT.iterdir():
        if entry.name not in ("build", "models"):  # which commands write
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "BUNDLE").symlink_to(sample_bundle())
    (tmp_path / "people").mkdir()
    for name, folder in zip(("alice", "bob"), sample_people(), strict=True):
        shutil.copytree(folder, tmp_path / "people" / name)
        shutil.copy(next(folder.glob("image.*")), tmp_path / f"{name}.jpg")
    (pairs,) = re.findall(r"^```\n(person,.*?)^```", DOCUMENTS["docs/serving.md"], re.M | re.S)
    (tmp_path / "pairs.csv").write_text(pairs)
    return tmp_path


def environment(clone: Path) -> dict[str, str]:
    folder = Path(sys.executable).parent
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "TMPDIR": str(clone)}


@pytest.mark.parametrize(("document", "code"), SHELL, ids=[code[:40] for _, code in SHELL])
def test_shell(document, code, clone):
    reason = next((why for part, why in SHELL_NOT_RUN.items() if part in code), None)
    if reason:
        pytest.skip(reason)
    if "cmake" in code:
        if not (shutil.which("cmake") and os.environ.get("ONNXRUNTIME_ROOT")):
            pytest.skip("needs CMake and ONNX Runtime's headers")
        code = code.partition("cmake --build")[0]  # the tests in tests/cpp build it
    code = code.replace("triton BUNDLE -o models-tensorrt", "triton --help #")  # needs engines
    done = subprocess.run(
        ["bash", "-ec", STAND_INS + code],
        cwd=clone,
        env=environment(clone),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for written in re.findall(r"(?:-o|--panel) (\S+\.png)", code):
        Image.open(clone / written).load()
    if "--pairs" in code:
        Image.open(clone / "out" / "alice-bob.png").load()


def commands() -> list[str]:
    """The commands of this package that stand in shell, and in the text between."""
    found = set()
    for text in DOCUMENTS.values():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        inline = re.findall(r"`(garment-transfer [^`]*)`", prose)
        found |= {" ".join(each.split()) for each in inline}
    for _, code in SHELL:
        whole = code.replace("\\\n", " ").replace("$TRAIN", "garment-transfer train -o runs/lite")
        found |= set(re.findall(r"^garment-transfer .*?(?= +#|$)", whole, re.MULTILINE))
    return sorted(found)


def test_commands_are_understood():
    """Options and values of those above and of those that are not run."""
    for line in commands():
        name, *words = shlex.split(line)[1:]
        command = main.get_command(click.Context(main), name)
        if name == "--help":
            continue
        assert command is not None, line
        try:
            command.make_context(name, words)
        # an option that is talked of may stand alone, and files are the reader's
        except (click.MissingParameter, click.BadOptionUsage):
            pass
        except click.BadParameter as error:
            if "does not exist" not in error.message:
                raise


def test_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = set(project["optional-dependencies"])
    for document, text in DOCUMENTS.items():
        for extras in re.findall(r"pip install [^`\n]*\[([\w,]+)\]", text):
            assert set(extras.split(",")) <= known, document


@pytest.mark.parametrize(("document", "code"), blocks("cpp"))
def test_cpp(document, code, tmp_path):
    """It compiles where the reader's names are variables."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    include, body = code.split("\n", 1)
    variables = "const unsigned char* pixels = nullptr; int height = 1, width = 1, row_stride = 3;"
    source = tmp_path / "snippet.cpp"
    source.write_text(f"{include}\nint main() {{\n{variables}\n{body}}}\n")
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{ROOT}/runtime/cpp/include"]
    subprocess.run([*command, f"-I{ROOT}/kernels/photos", source], check=True)


@pytest.fixture
def server(clone, free_port) -> Any:
    """The server of examples/python_server by its own command, on a free port; and its port."""
    pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")
    port = free_port()
    (code,) = (code for _, code in SHELL if "uvicorn" in code)
    command = code.replace("uvicorn ", f"exec python -m uvicorn --port {port} ")
    with subprocess.Popen(
        ["bash", "-ec", STAND_INS + command],
        cwd=clone,
        env=environment(clone),
        start_new_session=True,
    ) as process:
        try:
            for _ in range(600):
                assert process.poll() is None
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready")
                    break
                except OSError:
                    time.sleep(0.1)
            yield port
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def test_the_python_server(server, clone):
    """Its command, the request of its document, two bare photos, and /docs without a network."""
    import httpx

    (code,) = (code for _, code in SHELL if ":8000/transfer" in code)
    code = code.replace(":8000", f":{server}").replace("-o transfer.png", f"-sSf -o {clone}/t.png")
    subprocess.run(["bash", "-ec", code], cwd=clone, check=True)
    pipeline = Pipeline.load(sample_bundle(), threads=1)
    expected = pipeline.transfer(*map(Person.load, sample_people()))
    assert (np.array(Image.open(clone / "t.png")) == expected.image).all()

    url = f"http://127.0.0.1:{server}"
    photos = [clone / "alice.jpg", clone / "bob.jpg"]
    form = zip(("person_image", "garment_image"), photos, strict=True)
    files = {field: photo.read_bytes() for field, photo in form}
    answer = httpx.post(f"{url}/transfer", files=files, timeout=60)
    expected = pipeline.transfer(*map(Person.from_photo, photos))
    assert (np.array(Image.open(io.BytesIO(answer.content))) == expected.image).all()

    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}/docs")
        page.get_by_text("/transfer").first.wait_for()
        browser.close()
    assert all(there.startswith((url, "data:")) for there in asked)
