"""The soak over a few pairs: what is counted, and that bad inputs are told from good ones."""

from garment_transfer.benchmarks.soak import soak
from garment_transfer.runtime import Pipeline, sample_bundle


def test_good_and_bad_pairs_are_told_apart(tmp_path):
    pipeline = Pipeline.load(sample_bundle(), threads=1)
    result = soak(pipeline, 10, 2, tmp_path)
    assert result.transfers == 8
    assert result.refused == {"image_unreadable": 1, "person_incomplete": 1}
    assert result.broken == []
    assert len(result.memory_mb) == 3
