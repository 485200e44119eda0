"""What FlowWarp's benchmark on a GPU decides before it needs one."""

from hypothesis import given, strategies as st

from garment_transfer.benchmarks import flow_warp as benchmark


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 30))
def test_a_call_finds_its_arrays_where_the_row_says(moved, cache):
    sets = benchmark.buffer_sets(moved, cache)
    assert sets["DRAM"] * moved >= 2 * cache
    assert (sets["DRAM"] - 1) * moved < 2 * cache
    assert ("L2" in sets) == (moved <= cache // 2)
    assert sets.get("L2", 1) == 1


@given(st.integers(1, 300))
def test_every_set_is_used_equally_often_and_a_launch_does_not_count(sets):
    calls = list(benchmark.in_graph([lambda i=i: i for i in range(sets)]))
    order = [call() for call in calls]
    assert len(order) >= 50
    assert order == [i % sets for i in range(len(order))]
    assert len(order) % sets == 0


def test_bytes_of_a_call():
    # x and y once each, flow and residual, and the coarse flow, a quarter of one of them
    x, flow = 3 * 8 * 64 * 48 * 2, 3 * 2 * 64 * 48 * 4
    assert benchmark.moved_bytes(3, 8, 64, 48, 2) == 2 * x + 2 * flow + flow // 4
