"""A pytest plugin that writes down every refusal the tests meet, to compare before and after.

    PYTHONPATH=tests/golden pytest -p refusals --refusals FILE.json

A refusal is the text of an error of this package, the status and message of a command that fails,
or a server's answer of 400 and above. Paths, hashes and times are made alike, so that two runs of
the same code write the same file.
"""

from __future__ import annotations

import functools
import http.client
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

_FOUND: set[tuple[str, str]] = set()

_ALIKE = (
    (r"/tmp/[^\s'\"`:;,)]*", "TMP"),
    (r"\b[0-9a-f]{12,64}\b", "HASH"),
    (r"127\.0\.0\.1:\d+", "HOST"),
    (r"0x[0-9a-f]+", "ADDRESS"),
    (r"\d+(\.\d+)? (s|ms|seconds)\b", "TIME"),
    (r"(/[\w.-]+)+/site-packages", "SITE"),
)


def _add(kind: str, text: str) -> None:
    for pattern, word in _ALIKE:
        text = re.sub(pattern, word, text)
    _FOUND.add((kind, text.strip()[:2000]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refusals", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    errors = _errors()
    make = errors.__init__

    @functools.wraps(make)
    def made(self: Any, *arguments: Any, **fields: Any) -> None:
        make(self, *arguments, **fields)
        _add(f"error {type(self).__name__}", str(self))

    errors.__init__ = made  # type: ignore[method-assign]
    invoke, run, read = CliRunner.invoke, subprocess.run, http.client.HTTPResponse.read

    @functools.wraps(invoke)
    def invoked(self: Any, *arguments: Any, **fields: Any) -> Any:
        result = invoke(self, *arguments, **fields)
        if result.exit_code:
            _add(f"command {result.exit_code}", result.output)
        return result

    @functools.wraps(run)
    def ran(*arguments: Any, **fields: Any) -> Any:
        result = run(*arguments, **fields)
        if result.returncode and isinstance(result.stderr, str):
            _add(f"process {result.returncode}", result.stderr)
        return result

    @functools.wraps(read)
    def answer(self: Any, *arguments: Any) -> bytes:
        body = read(self, *arguments)
        if self.status >= 400:
            _add(f"answer {self.status}", body.decode("utf-8", "replace"))
        return body

    CliRunner.invoke = invoked  # type: ignore[method-assign]
    subprocess.run = ran  # type: ignore[assignment]
    http.client.HTTPResponse.read = answer  # type: ignore[method-assign]
    try:
        import httpx
    except ImportError:
        return
    send = httpx.Client.send

    @functools.wraps(send)
    def sent(*arguments: Any, **fields: Any) -> Any:
        response = send(*arguments, **fields)
        if response.status_code >= 400:
            response.read()
            _add(f"answer {response.status_code}", response.text)
        return response

    httpx.Client.send = sent  # type: ignore[method-assign]


def pytest_unconfigure(config: pytest.Config) -> None:
    lines = [list(pair) for pair in sorted(_FOUND)]
    config.getoption("--refusals").write_text(
        json.dumps(lines, indent=0, ensure_ascii=False) + "\n"
    )


def _errors() -> Any:
    from garment_transfer.bundle import GarmentTransferError

    return GarmentTransferError
