"""Parts of the warping network whose answer is known without training."""

import torch

from garment_transfer.models.flow_warp import identity_affine
from garment_transfer.models.layers import matching_affine, moments, positions, within
from garment_transfer.models.presets import build_network
from garment_transfer.models.warping import Body, Matching, displacement, to_flow


def box(top, bottom, left, right, size=64):
    mask = torch.zeros(1, 1, size, size)
    mask[:, :, top:bottom, left:right] = 1
    return mask


def test_within_does_not_depend_on_where_the_region_stands():
    small, moved = box(8, 24, 10, 26), box(30, 62, 20, 52)
    inside_small = within(moments(small), small)[:, :, 8:24, 10:26]
    inside_moved = within(moments(moved), moved)[:, :, 30:62, 20:52]
    averaged = torch.nn.functional.avg_pool2d(inside_moved, 2)
    torch.testing.assert_close(averaged, inside_small, atol=0.01, rtol=0)


def test_the_matching_affine_leads_from_one_region_to_the_other():
    target, source = box(8, 24, 10, 26), box(30, 62, 20, 52)
    affine = matching_affine(moments(target), moments(source))
    flow = displacement(torch.zeros(1, 2, 64, 64), affine)
    # corners of the boxes, as edges: pixel centres lie half a pixel inside
    ys, xs = torch.tensor([8, 23]), torch.tensor([10, 25])
    torch.testing.assert_close(
        ys + flow[0, 1, ys, xs], torch.tensor([30.5, 60.5]), atol=0.2, rtol=0
    )
    torch.testing.assert_close(
        xs + flow[0, 0, ys, xs], torch.tensor([20.5, 50.5]), atol=0.2, rtol=0
    )


def test_matching_finds_where_a_place_went():
    # places that are the position itself, in decimetres; the target shows them 3 cells to the left
    grid = positions(torch.zeros(1, 1, 32, 24))
    places = torch.cat([10 * grid, torch.zeros(1, 1, 32, 24), torch.ones(1, 1, 32, 24)], dim=1)
    wanted = torch.roll(places, -3, dims=3)
    matched = Matching()(places, wanted)
    flow = to_flow(matched, identity_affine(matched))
    inner = flow[:, :, 2:-2, 2:-5]
    torch.testing.assert_close(inner[:, 0], torch.full_like(inner[:, 0], 3), atol=0.05, rtol=0)
    torch.testing.assert_close(inner[:, 1], torch.zeros_like(inner[:, 1]), atol=0.05, rtol=0)


def test_matching_looks_at_the_garment_alone():
    grid = positions(torch.zeros(1, 1, 16, 12))
    coverage = torch.ones(1, 1, 16, 12)
    coverage[..., :6] = 0
    worn = torch.cat([10 * grid * coverage, torch.zeros(1, 1, 16, 12), coverage], dim=1)
    wanted = torch.cat([10 * grid, torch.zeros(1, 1, 16, 12), torch.ones(1, 1, 16, 12)], dim=1)
    matched = Matching()(worn, wanted)
    assert matched[:, 0].min() > 0


def test_places_of_the_body_go_by_part_and_by_u_and_v_where_they_are_known():
    body = Body()
    with torch.no_grad():
        body.parts.weight[2] = torch.arange(1.0, 10.0)
    densepose = torch.zeros(1, 8, 4, 3, dtype=torch.uint8)
    densepose[..., 0] = 2
    densepose[:, 4:, :, 1], densepose[:, 4:, :, 2] = 204, 51  # 0.8 and 0.2 of the chart
    upper, lower = body(densepose)[0, :, :, 0].unbind(dim=1)
    torch.testing.assert_close(upper, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(lower, torch.tensor([1 + 1.2 - 2.1, 2 + 1.5 - 2.4, 3 + 1.8 - 2.7]))


def test_the_network_sees_the_body_of_the_owner():
    network = build_network("lite", "warping")
    random = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 64, 64, 3), generator=random, dtype=torch.uint8)
    labels = torch.full((1, 64, 64), 4, dtype=torch.uint8)
    first, second = (torch.full((1, 64, 64, 3), part, dtype=torch.uint8) for part in (2, 15))
    with torch.inference_mode():
        places = [network.flows(image, labels, b, labels, first).worn for b in (first, second)]
    assert (places[0] != places[1]).any()


def test_any_size_divisible_by_32_goes_through():
    network = build_network("lite", "warping")
    random = torch.Generator().manual_seed(0)
    for height, width in ((64, 32), (96, 160)):
        image = torch.randint(256, (2, height, width, 3), generator=random, dtype=torch.uint8)
        labels = torch.randint(7, (2, height, width), generator=random, dtype=torch.uint8)
        densepose = torch.randint(25, (2, height, width, 3), generator=random, dtype=torch.uint8)
        with torch.inference_mode():
            others = densepose.flip(2), labels.flip(2), densepose
            warped, flow, confidence = network(image, labels, *others)
        assert warped.shape == (2, height, width, 3)
        assert flow.shape == (2, 2, height, width)
        assert flow.isfinite().all()
        for result in (warped, confidence):
            assert result.any()
            assert (result[labels.flip(2) != 4] == 0).all()
