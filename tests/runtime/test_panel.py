"""Colours of a flow."""

import colorsys

import numpy as np
import pytest

from garment_transfer.runtime import flow_colours, flow_wheel


@pytest.mark.parametrize("degrees", range(0, 360, 15))
@pytest.mark.parametrize("length", [0.0, 2.0, 5.0, 9.0])
def test_hue_is_direction_and_strength_is_length(degrees, length):
    angle = np.radians(degrees)
    flow = np.float32([[[length * np.cos(angle), length * np.sin(angle)]]])
    due = colorsys.hsv_to_rgb(degrees / 360, min(length / 5, 1), 1)
    assert np.abs(flow_colours(flow, 5)[0, 0] - 255 * np.array(due)).max() <= 1


def test_no_flow_is_white():
    assert (flow_colours(np.zeros((2, 3, 2), np.float32), 0) == 255).all()


def test_the_wheel_is_the_key():
    wheel = flow_wheel(41)
    assert wheel.shape == (41, 41, 3)
    assert (wheel[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    assert (
        wheel[20, 39].tolist()
        == flow_colours(np.float32([[[2 * 39.5 / 41 - 1, 0]]]), 1)[0, 0].tolist()
    )
    below, above = wheel[39, 20].astype(int), wheel[1, 20].astype(int)
    assert below.argmax() == 1  # y is down: yellowish green
    assert above.argmax() == 2
