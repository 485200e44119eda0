"""Other methods' networks: what stands in for their CUDA code, and ours beside them."""

import numpy as np
import torch

from garment_transfer.benchmarks import peers
from garment_transfer.bundle import STAGES
from garment_transfer.models.checkpoint import load_checkpoint
from garment_transfer.models.presets import shipped_checkpoint
from garment_transfer.runtime import Pipeline, sample_bundle
from garment_transfer.training.evaluation import Networks


def test_correlation_is_the_mean_of_products_at_49_places():
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((1, 3, 5, 6)).astype(np.float32) for _ in range(2))
    due = np.zeros((49, 5, 6))
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            for y in range(5):
                for x in range(6):
                    if 0 <= y + dy < 5 and 0 <= x + dx < 6:
                        product = first[0, :, y, x] * second[0, :, y + dy, x + dx]
                        due[7 * (dy + 3) + dx + 3, y, x] = product.mean()
    found = peers._correlation(torch.from_numpy(first), torch.from_numpy(second))
    np.testing.assert_allclose(found[0].numpy(), due, atol=1e-6)


def test_ours_is_the_three_graphs_in_a_row():
    inputs = peers.our_inputs()
    _, networks = load_checkpoint(shipped_checkpoint("lite"))
    found = Networks({stage: networks[stage] for stage in STAGES}).run(inputs)["image"]
    due = Pipeline.load(sample_bundle(), threads=1).run(inputs)["image"]
    assert (np.abs(found.astype(int) - due) <= 1).mean() > 0.999


def test_a_folder_that_is_no_clone(invoke, tmp_path):
    printed = invoke(tmp_path, code=2, command=peers.main)
    assert "has no folder exp/runtime" in printed
