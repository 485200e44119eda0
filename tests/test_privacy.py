"""Nothing leaves the machine: no look-up of a host, no connection, no file in the home folder."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

#: Stands between a program and libc, and writes down whom it wants to reach.
_WATCH = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *what) {
  int file = open(getenv("WATCH_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
  if (file < 0 || write(file, what, strlen(what)) < 0 || write(file, "\n", 1) < 0) abort();
  close(file);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
  int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
      dlsym(RTLD_NEXT, "getaddrinfo");
  if (node && strcmp(node, "localhost") && strcmp(node, "127.0.0.1")) note(node);
  return real(node, service, hints, found);
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
  int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
  if (address->sa_family == AF_INET) {
    struct in_addr host = ((const struct sockaddr_in *)address)->sin_addr;
    if (ntohl(host.s_addr) >> 24 != 127) note(inet_ntoa(host));
  }
  return real(fd, address, length);
}
"""

_SERVER = Path(__file__).parents[1] / "examples" / "python_server"

#: ONNX Runtime looks its vendor up some 25 seconds after it was loaded.
_SECONDS = 32

_TRANSFERS = """
import time
from garment_transfer import Person, Pipeline, sample_bundle, sample_people
people = [Person.load(folder) for folder in sample_people()]
for backend in {backends}:
    Pipeline.load(sample_bundle(), backend, threads=1).transfer(*people)
time.sleep({seconds})
"""

_COMMAND = "from garment_transfer.cli.main import main; main()"

#: What the others must not do, so that the watch is known to see it.
_TALKS = """
import contextlib, pathlib, socket
with contextlib.suppress(OSError):
    socket.getaddrinfo("example.invalid", 443)
(pathlib.Path.home() / "left").touch()
"""


@pytest.fixture
def watch(tmp_path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    source = tmp_path / "watch.c"
    source.write_text(_WATCH)
    library = tmp_path / "watch.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def start(watch: Path, home: Path, arguments: list[str]) -> subprocess.Popen:
    home.mkdir()
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORT_", "GRADIO_", "XDG_", "HF_"))
    }
    watched = {"HOME": str(home), "LD_PRELOAD": str(watch), "WATCH_LOG": f"{home}.log"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=inherited | watched,
        cwd=home.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_nothing_leaves_the_machine(watch, free_port, tmp_path):
    backends = ["onnxruntime", *(["openvino"] if find_spec("openvino") else [])]
    ends = {
        "transfers": ["-c", _TRANSFERS.format(backends=backends, seconds=_SECONDS)],
        "doctor": ["-c", _COMMAND, "doctor"],
        "talks": ["-c", _TALKS],
    }
    serves = {}  # each runs transfers before it is ready
    if find_spec("gradio"):
        serves["demo"] = ["-c", _COMMAND, "demo", "--port", str(free_port()), "--threads", "1"]
    if find_spec("fastapi"):
        server = ["-m", "uvicorn", "--app-dir", str(_SERVER), "--factory", "server:create_app"]
        serves["server"] = [*server, "--port", str(free_port())]
    programs = {name: start(watch, tmp_path / name, args) for name, args in (ends | serves).items()}
    try:
        for name in ends:
            assert programs[name].wait(_SECONDS + 240) == 0, name
        for name in serves:
            assert programs[name].poll() is None, name
    finally:
        for program in programs.values():
            program.terminate()
            program.wait()
    for name in programs:
        log = Path(f"{tmp_path / name}.log")
        reached = log.read_text() if log.exists() else ""
        left = [path.name for path in (tmp_path / name).rglob("*") if path.is_file()]
        talks = name == "talks"
        assert (reached, left) == (("example.invalid\n", ["left"]) if talks else ("", [])), name
