"""A shard of one small rendered group."""

import pytest

from garment_transfer.training.synthetic import write_shards

SIZE = (64, 64)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, range(2), SIZE, workers=1)
    return folder
