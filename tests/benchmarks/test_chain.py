import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from garment_transfer.benchmarks.chain import idle_of, main
from garment_transfer.bundle import BackendError
from garment_transfer.runtime.cuda import CudaDevice


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], None),
        ([(0, 10)], 0.0),
        ([(0, 10), (20, 30)], 1 / 3),
        ([(0, 10), (5, 8), (10, 20)], 0.0),  # side by side, on two streams
        ([(0, 10), (5, 15), (20, 30)], 1 / 6),
        ([(0, 50), (50, 100), (1000, 1040), (1060, 1100), (2000, 2060), (2070, 2100)], 0.1),
    ],
)
def test_idle_share(spans: list[tuple[float, float]], expected: float | None) -> None:
    found = idle_of(spans, gap=500)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_without_a_gpu_nothing_is_measured(tiny_bundle: Path, tmp_path: Path) -> None:
    try:
        CudaDevice()
    except BackendError as error:
        reason = str(error)
    else:
        pytest.skip("there is a GPU")
    file = tmp_path / "chain.json"
    result = CliRunner().invoke(main, ["--bundle", str(tiny_bundle), "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert result.output == f"not measured: {reason}\n"
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["measured"] is False
    assert "median_ms" not in report
