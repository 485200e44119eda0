"""Two small rendered groups as shards, and as a data set in VITON's layout."""

import pytest
import torch

from garment_transfer.models.flow_warp import identity_affine
from garment_transfer.models.warping import Flows
from garment_transfer.runtime.photos import Person
from garment_transfer.training.data import RenderedPhotos
from garment_transfer.training.photos import write_viton
from garment_transfer.training.synthetic import write_shards

SIZE = (64, 64)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for views in (False, True):
        write_shards(folder, 2, SIZE, workers=1, views=views)
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


@pytest.fixture
def still():
    """Makes flows of a size that move everything alike to the right."""

    def make(size, shift=0.0):
        levels = [torch.zeros(1, 2, size // f, size // f) for f in (32, 16, 8, 4, 2)]
        for level in levels:
            level[:, 0] = shift * level.shape[-1] / size
        nothing = torch.zeros(1, 3, size // 4, size // 4)
        return Flows(identity_affine(nothing), levels[1], levels, nothing, nothing)

    return make
