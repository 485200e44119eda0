"""The soak over a few pairs: what is counted, and that bad inputs are told from good ones."""

from garment_transfer.benchmarks.soak import soak


def test_good_and_bad_pairs_are_told_apart(tmp_path):
    result = soak(10, 1, tmp_path)
    assert result.transfers == 8
    assert result.refused == {"image_unreadable": 1, "person_incomplete": 1}
    # whether memory grew over so few pairs says nothing
    assert [line for line in result.broken if not line.startswith("memory")] == []
