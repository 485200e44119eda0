"""Seeded synthetic people: photos, label maps and true transfers, for training and testing."""

from garment_transfer.training.synthetic.groups import (
    HELD_OUT_PAIRS as HELD_OUT_PAIRS,
    HeldOut as HeldOut,
    held_out_pair as held_out_pair,
    held_out_recipe as held_out_recipe,
    render_single as render_single,
    sample_group as sample_group,
    single_recipe as single_recipe,
    training_group as training_group,
    write_shards as write_shards,
)
from garment_transfer.training.synthetic.people import (
    HELD_OUT as HELD_OUT,
    HELD_OUT_B as HELD_OUT_B,
    TRAIN as TRAIN,
)
from garment_transfer.training.synthetic.render import (
    build_figure as build_figure,
    render_person as render_person,
    render_shop as render_shop,
    true_flow as true_flow,
)
from garment_transfer.training.synthetic.rough import roughen as roughen
