"""Seeded synthetic people: photos, label maps and true transfers, for training and testing."""

from garment_transfer.training.synthetic.groups import (
    HELD_OUT_PAIRS,
    held_out_pair,
    held_out_recipe,
    render_single,
    sample_group,
    single_recipe,
    training_group,
    training_shop,
    write_shards,
)
from garment_transfer.training.synthetic.people import (
    HELD_OUT,
    TRAIN,
    Body,
    Distribution,
    Garment,
    sample_body,
    sample_garment,
)
from garment_transfer.training.synthetic.render import (
    Rendered,
    Shop,
    build_figure,
    render_person,
    render_shop,
    true_flow,
)
from garment_transfer.training.synthetic.rough import roughen

__all__ = [
    "HELD_OUT",
    "HELD_OUT_PAIRS",
    "TRAIN",
    "Body",
    "Distribution",
    "Garment",
    "Rendered",
    "Shop",
    "build_figure",
    "held_out_pair",
    "held_out_recipe",
    "render_person",
    "render_shop",
    "render_single",
    "roughen",
    "sample_body",
    "sample_garment",
    "sample_group",
    "single_recipe",
    "training_group",
    "training_shop",
    "true_flow",
    "write_shards",
]
