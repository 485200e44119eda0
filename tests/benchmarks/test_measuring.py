"""Timing in turn: every run is timed as often, in turn, and always after an untimed call."""

from garment_transfer.benchmarks.measuring import interleaved, medians


def test_runs_take_turns() -> None:
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    times = interleaved(runs, rounds=3, warm_up=1)
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert turns == ["a", "b"] * 4
    assert all(calls.count(name) >= 2 * 4 for name in runs)
    assert medians({"a": [3.0, 1.0, 2.0]}) == {"a": 2.0}
