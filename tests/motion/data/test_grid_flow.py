"""Flow found from pictures alone, held against the generator's truth and against warps of photographs."""

import dataclasses
import time

import pytest
import torch
import torch.nn.functional as F
from pack.motion.data.grid_flow import estimate_grid_flow
from pack.motion.data.procedural.camera import draw_scenes
from pack.motion.errors import ShapeError
from pack.motion.layers.letterbox import fit_square

CAMERA = ("pan left", "pan down", "zoom in", "zoom out", "rotate left", "rotate right", "pan up, zoom in")
CELLS = torch.arange(16) * 4 + 1.5  # centres of the cells, px
TEXTURED = 0.03  # mean colour step from pixel to pixel


def textured(frames):
    """Cells (t, 16, 16) with enough texture to see a motion by."""
    steps = F.pad(frames.diff(dim=-1), (0, 1)).square() + F.pad(frames.diff(dim=-2), (0, 0, 0, 1)).square()
    return F.avg_pool2d(steps.sum(1, keepdim=True).sqrt(), 4)[:, 0] > TEXTURED


def visible(flow):
    """Cells whose origin lies inside frame 0."""
    x, y = flow[:, 0] + CELLS, flow[:, 1] + CELLS.unsqueeze(1)
    return (x >= 0) & (x <= 63) & (y >= 0) & (y <= 63)


def errors(frames, truth):
    """Length of the flow's error in px over textured, visible cells of all frames but the first."""
    found = estimate_grid_flow(frames)
    keep = (textured(frames) & visible(truth))[1:]
    return (found - truth).norm(dim=1)[1:][keep]


@pytest.mark.slow
def test_flow_of_generated_clips_is_found_within_a_third_of_a_pixel():
    scenes = draw_scenes(len(CAMERA), torch.Generator().manual_seed(21), motions=list(CAMERA))
    frames, truth = scenes.render(torch.arange(16).expand(len(CAMERA), -1))
    found = [errors(clip, flow) for clip, flow in zip(frames.transpose(1, 2), truth)]
    everything = torch.cat(found)
    assert everything.median() < 0.05 and everything.quantile(0.9) < 0.3
    assert all(one.median() < 0.3 for one in found)


@pytest.mark.slow
def test_slow_clips_are_measured_to_hundredths():
    scenes = draw_scenes(2, torch.Generator().manual_seed(3), motions=["pan left", "zoom in"])
    scenes = dataclasses.replace(scenes, rate=torch.tensor([[-0.06, 0, 0, 0], [0, 0, -0.002, 0]]))  # px, log-scale
    frames, truth = scenes.render(torch.arange(16).expand(2, -1))
    for clip, flow in zip(frames.transpose(1, 2), truth):
        assert errors(clip, flow).median() < 0.05


def warped_photo(photo, matrix, shift):
    """A photo (3, 64, 64) read at A·x + b about its middle, by the definition, and that flow on the grid."""
    axis = torch.arange(64.0) - 31.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    place = torch.stack((x, y), -1) @ torch.tensor(matrix).T + torch.tensor(shift)
    seen = F.grid_sample(photo.unsqueeze(0), (place / 32).unsqueeze(0), align_corners=False, padding_mode="reflection")
    flow = (place - torch.stack((x, y), -1)).permute(2, 0, 1)
    return seen[0], F.avg_pool2d(flow, 4)


@pytest.mark.slow
def test_flow_of_a_photograph_under_noise_and_a_change_of_light_is_found():
    data = pytest.importorskip("skimage.data")
    photo = fit_square(torch.from_numpy(data.astronaut()).float().permute(2, 0, 1).unsqueeze(0) / 255, 64)[0]
    frames, flows = [], []
    for n in range(16):
        beat = n / 15
        seen, flow = warped_photo(photo, [[1 + 0.12 * beat, 0.05 * beat], [0.0, 1 - 0.12 * beat]], [2 * beat, -beat])
        frames.append(seen * (1 - 0.1 * beat))
        flows.append(flow)
    noise = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.01
    found = errors((torch.stack(frames) + noise).clamp(0, 1), torch.stack(flows))
    assert found.median() < 0.1 and found.quantile(0.9) < 0.3


@pytest.mark.slow
def test_a_still_clip_has_no_flow_and_a_blank_one_neither():
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert estimate_grid_flow(picture.expand(5, -1, -1, -1)).abs().max() < 1e-4
    assert estimate_grid_flow(torch.full((5, 3, 64, 64), 0.4)).abs().max() < 1e-4


def test_a_moving_thing_on_a_resting_ground_moves_alone():
    """A textured square slides 6 px; what is far from it rests."""
    generator = torch.Generator().manual_seed(5)
    ground, thing = (F.interpolate(torch.rand(1, 3, 16, 16, generator=generator), size=64, mode="bicubic").clamp(0, 1)
                     for _ in range(2))  # fmt: skip
    frames = []
    for n in range(13):
        frame = ground[0].clone()
        frame[:, 20:40, 16 + n // 2 : 36 + n // 2] = thing[0, :, 20:40, 16:36]
        frames.append(frame)
    last = estimate_grid_flow(torch.stack(frames))[-1]
    assert last[0, 6:9, 7:9].median() == pytest.approx(-6, abs=0.5)
    assert last[:, :, 13:].abs().max() < 0.3 and last[:, 13:].abs().max() < 0.3


@pytest.mark.slow
def test_size_128_has_a_grid_of_32_in_its_own_pixels():
    noise = F.interpolate(torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(2)), scale_factor=4.0,
                          mode="bicubic").clamp(0, 1)[0]  # fmt: skip
    frames = torch.stack([noise[:, :, 2 * n : 2 * n + 128] for n in range(6)])
    flow = estimate_grid_flow(frames)
    assert flow.shape == (6, 2, 32, 32)
    assert flow[5, 0].median() == pytest.approx(10, abs=0.1) and flow[5, 1].abs().median() < 0.1


def test_one_frame_has_no_flow_and_other_shapes_are_refused():
    assert torch.equal(estimate_grid_flow(torch.rand(1, 3, 64, 64)), torch.zeros(1, 2, 16, 16))
    for shape in ((4, 3, 64, 48), (4, 1, 64, 64), (4, 3, 72, 72), (4, 3, 16, 16)):
        with pytest.raises(ShapeError, match="multiple of 16 from 32 on is needed"):
            estimate_grid_flow(torch.rand(shape))


@pytest.mark.slow
def test_sixteen_frames_take_less_than_a_second_and_a_half_of_one_core():
    scenes = draw_scenes(1, torch.Generator().manual_seed(0), motions=["zoom in"])
    frames = scenes.render(torch.arange(16).unsqueeze(0))[0][0].transpose(0, 1)
    estimate_grid_flow(frames)
    started = time.process_time()
    estimate_grid_flow(frames)
    assert time.process_time() - started < 1.5
