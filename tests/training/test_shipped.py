"""What the shipped weights reach on a part of the held-out test and on real people."""

import numpy as np
import pytest

from garment_transfer.bundle import FACE, HAIR, Bundle, sha256_of
from garment_transfer.models.presets import shipped_checkpoint
from garment_transfer.runtime import Person, Pipeline, sample_bundle, sample_people
from garment_transfer.training.evaluation import evaluate_held_out, evaluate_real
from garment_transfer.training.synthetic import held_out_pair


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.load(sample_bundle(), threads=2)


def test_the_bundle_is_the_export_of_the_checkpoint():
    manifest = Bundle.load(sample_bundle()).manifest
    assert manifest.checkpoint.sha256 == sha256_of(shipped_checkpoint("lite"))


def test_shipped_files_are_small():
    bundle = [file.stat().st_size for file in sample_bundle().iterdir()]
    checkpoints = [file.stat().st_size for file in shipped_checkpoint("lite").parent.iterdir()]
    assert max(*bundle, *checkpoints) <= 15_000_000
    # three precisions of three graphs, and the maps
    assert sum(bundle) <= 25_000_000


def test_held_out_pairs(pipeline):
    pairs = [held_out_pair(i) for i in range(12)]
    rows = evaluate_held_out(pipeline, pairs)
    method, *baselines = rows
    assert method["name"] == "method"
    # what these weights reach on these, less a margin
    assert method["garment_iou"] > 0.86
    assert method["skin_iou"] > 0.78
    assert len(baselines) == 4
    unchanged = next(row for row in baselines if row["name"] == "person unchanged")
    assert method["garment_iou"] > unchanged["garment_iou"]
    flat = next(row for row in baselines if "mean colour" in row["name"])
    assert method["changed_ssim"] > flat["changed_ssim"]


def test_sample_people_keep_hair_and_face(pipeline):
    person, owner = (Person.load(folder) for folder in sample_people())
    transfer = pipeline.transfer(person, owner)
    kept = np.isin(person.parsing, (HAIR, FACE))
    assert transfer.image.shape == person.image.shape
    assert (transfer.transfer_parsing[kept] == person.parsing[kept]).all()
    assert (transfer.image[kept] == person.image[kept]).all()


def test_real_people(pipeline, real_samples):
    people = {folder.name: Person.load(folder) for folder in sorted(real_samples.glob("*_*/"))}
    rows, images = evaluate_real(pipeline, people)
    assert len(images) == len(people) ** 2
    for (name, _), image in images.items():
        hair_and_face = np.isin(people[name].parsing, (HAIR, FACE))
        assert (image[hair_and_face] == people[name].image[hair_and_face]).all()
    for row in rows:
        if str(row["name"]).startswith("viton_"):
            # what these weights reach, less a margin: a guard against getting worse
            assert row["changed_ssim"] > 0.75
            assert row["cycle_ssim"] > 0.74
            assert row["garment_iou"] > 0.90
            assert row["arms_iou"] > 0.88
