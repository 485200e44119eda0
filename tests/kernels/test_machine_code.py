"""FlowWarp's machine code: what the compiler made of the sources, which no GPU is needed to see.

The kernels wait for memory, so that many loads have to be in flight together.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from garment_transfer.kernels import flow_warp as cuda

SOURCES = Path(__file__).parents[2] / "kernels/flow_warp"


def nvdisasm():
    """The disassembler: on PATH, or of the package nvidia-cuda-nvdisasm."""
    try:
        from cuda.pathfinder import find_nvidia_binary_utility
    except ImportError:
        return shutil.which("nvdisasm")
    return find_nvidia_binary_utility("nvdisasm") or shutil.which("nvdisasm")


@dataclass
class Kernel:
    """A kernel as nvdisasm prints it, and its inner loop, in which it goes through the channels."""

    registers: int
    code: list[str]  # an instruction or a label each

    @property
    def loop(self):
        places = {line[:-1]: i for i, line in enumerate(self.code) if line.startswith(".L")}
        found = []
        for i, line in enumerate(self.code):
            label = re.search(r"\bBRA\b.*`\((\.L\w+)\)", line)
            body = self.code[places.get(label[1], i) if label else i : i]
            if any("STG" in instruction for instruction in body):
                found.append(body)
        # of nested loops the inner one; a loop beside it does what unrolling left over
        return min(found, key=lambda body: (-sum("LDG" in line for line in body), len(body)))

    @property
    def loads_in_flight(self):
        """Loads of the inner loop before the first instruction that waits for one of them."""
        waited_for, loads = set(), 0
        for instruction in self.loop:
            names = re.findall(r"\bR\d+", instruction)
            load = "LDG" in instruction
            # the first register is written; a store writes none
            if waited_for & set(names if "STG" in instruction else names[1:]):
                return loads
            if load:
                loads += 1
                width = 4 if ".128" in instruction else 1
                first = int(names[0][1:])
                waited_for |= {f"R{first + i}" for i in range(width)}
        return loads

    @property
    def loads_before_the_first_store(self):
        first = next(i for i, instruction in enumerate(self.loop) if "STG" in instruction)
        return sum("LDG" in instruction for instruction in self.loop[:first])

    def all_of(self, opcode, where=None):
        """The modifiers of every instruction with this opcode, such as ".E.128" for LDG."""
        found = (re.search(rf"\b{opcode}((\.\w+)*) ", line) for line in where or self.code)
        return [match[1] for match in found if match]


def compiled(compiler, architecture, folder):
    cubin = folder / "flow_warp.cubin"
    if compiler == "nvcc":
        if shutil.which("nvcc") is None:
            pytest.skip("nvcc is not on PATH: install the CUDA toolkit")
        source = folder / "flow_warp.cu"
        source.write_text('#include "flow_warp_kernels.cuh"\n')
        command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-cubin", f"-I{SOURCES}"]
        subprocess.run([*command, source, "-o", cubin], check=True, timeout=300)
    else:
        pytest.importorskip("cuda.bindings", reason="pip install cuda-python")
        cubin.write_bytes(cuda.compile_flow_warp(architecture))
    return cubin


# what the libraries hold, and what Python compiles
@pytest.fixture(
    scope="module",
    params=[("nvcc", "sm_80"), ("nvcc", "sm_90"), ("nvcc", "sm_120"), ("nvrtc", "sm_90")],
    ids="-".join,
)
def kernels(request, tmp_path_factory):
    tool = nvdisasm()
    if tool is None:
        pytest.skip("no nvdisasm: install the CUDA toolkit or nvidia-cuda-nvdisasm")
    cubin = compiled(*request.param, tmp_path_factory.mktemp("machine_code"))
    text = subprocess.run([tool, cubin], capture_output=True, text=True, check=True).stdout
    registers = dict(re.findall(r"EIATTR_REGCOUNT[^@]*@\((\w+)\)\n.*\.word\s+(0x\w+)", text))
    found = {}
    for name, count in registers.items():
        code = text.partition(f"\n.text.{name}:\n")[2].partition("\n\t.section")[0]
        lines = (re.sub(r"/\*\w+\*/", "", line).strip() for line in code.splitlines())
        found[name.removeprefix("flow_warp_")] = Kernel(int(count, 16), [*filter(None, lines)])
    assert len(found) == 6
    for name, kernel in found.items():
        print(f"{'-'.join(request.param)} {name}: {kernel.registers} registers,", end=" ")
        print(f"{kernel.loads_in_flight} loads in flight,", end=" ")
        print(f"{kernel.loads_before_the_first_store} before the first store,", end=" ")
        print(f"stores STG{kernel.all_of('STG', kernel.loop)[0]}, {len(kernel.loop)} instructions")
    return found


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("name", ["compose/compose_cuda", "fit/fit_cuda"])
def test_fit_and_compose_spill_nothing(name, architecture, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on PATH: install the CUDA toolkit")
    source = SOURCES.parent / f"{name}.cu"
    command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-cubin", "-Xptxas=-v"]
    command += ["--fmad=false", "--extended-lambda", source, "-o", tmp_path / "kernels.cubin"]
    ran = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", ran.stderr)
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", ran.stderr)]
    print(f"{name} {architecture}: {len(registers)} kernels of at most {max(registers)} registers")
    assert set(spills) == {("0", "0")}
    # three blocks of 256 threads on a multiprocessor
    assert max(registers) <= 80


def test_registers_leave_room_for_many_threads_and_nothing_is_spilled(kernels):
    for name, kernel in kernels.items():
        assert kernel.registers <= 48, name
        assert not kernel.all_of("STL") + kernel.all_of("LDL"), name


def test_nothing_is_double_and_nothing_is_divided(kernels):
    for name, kernel in kernels.items():
        for opcode in ("DADD", "DMUL", "DFMA", "MUFU", "CALL"):
            assert not kernel.all_of(opcode), (name, opcode)


def test_the_inner_loop_does_not_branch(kernels):
    for name, kernel in kernels.items():
        assert not kernel.all_of("BRA", kernel.loop) + kernel.all_of("BSYNC", kernel.loop), name


def test_channels_last_four_gathers_of_16_bytes_are_in_flight(kernels):
    for dtype in ("float16", "bfloat16", "float32"):
        kernel = kernels[f"hwc8_{dtype}"]
        assert kernel.loads_in_flight >= 4
        assert all(".128" in width for width in kernel.all_of("LDG", kernel.loop))
        assert all(".128" in width for width in kernel.all_of("STG", kernel.loop))


def test_planes_many_loads_are_in_flight_and_two_pixels_are_stored_at_once(kernels):
    for dtype, width in (("float16", ".E"), ("bfloat16", ".E"), ("float32", ".E.64")):
        kernel = kernels[f"planes_{dtype}"]
        assert kernel.loads_in_flight >= 8
        assert kernel.loads_before_the_first_store >= 16
        # without more in its name a store is of 32 bits
        assert set(kernel.all_of("STG", kernel.loop)) == {width}


def test_the_flow_is_stored_two_pixels_at_once(kernels):
    for name, kernel in kernels.items():
        before = kernel.code[: kernel.code.index(kernel.loop[0])]
        assert set(kernel.all_of("STG", before)) == {".E.64"}, name
