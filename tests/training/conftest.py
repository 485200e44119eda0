"""Two small rendered groups as shards, and as a data set in VITON's layout."""

import pytest

from garment_transfer.runtime.photos import Person
from garment_transfer.training.data import RenderedPhotos
from garment_transfer.training.photos import write_viton
from garment_transfer.training.synthetic import write_shards

SIZE = (64, 64)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, range(2), SIZE, workers=1)
    return folder


@pytest.fixture(scope="session")
def viton(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("viton")
    photos = RenderedPhotos(shards)
    for index in range(4):
        photo = photos[index]
        person = Person(photo["image"], photo["parsing"], photo["densepose"])
        write_viton(folder, f"{index:06d}", person, photo["shop_image"], photo["shop_mask"] > 0)
    return folder
