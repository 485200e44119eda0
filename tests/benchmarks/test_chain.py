import pytest

from garment_transfer.benchmarks.chain import idle_of


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
def test_idle_share(spans, expected):
    found = idle_of(spans, gap=500)
    assert found == (expected if expected is None else pytest.approx(expected))
