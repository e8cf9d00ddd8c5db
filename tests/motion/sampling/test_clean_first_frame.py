"""A start image as a clean first frame: shown at every call, kept by every solver, for both branches of guidance."""

import pytest
import torch
from pack.motion.models.conditions import Conditions
from pack.motion.models.model_spec import SamplingDefaults
from pack.motion.sampling.clean_first_frame import CleanFirstFrame
from pack.motion.sampling.draw import draw, make_noise
from pack.motion.sampling.solvers import flow_dpm_2m

SAMPLING = SamplingDefaults(shift=3.0, num_steps=4, guidance_scale=1.0, num_frames=17, fps=8.0,
                            integer_timesteps=False)  # fmt: skip


class Watching:
    """Keeps what it is shown, and answers with a share of it and of the text."""

    def __init__(self):
        self.seen = []

    def __call__(self, latents, timestep, conditions):
        self.seen.append(latents.clone())
        return 0.3 * latents + conditions.context.mean((1, 2)).view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize(("guidance", "images"), [(1.0, 1), (3.0, 1), (3.0, 2)])
def test_the_first_frame_is_shown_clean_at_every_call_and_comes_out_exact(guidance, images):
    first, network = torch.randn(images, 4, 1, 2, 2), Watching()
    held = CleanFirstFrame(network, first)
    told, empty = (Conditions(value * torch.ones(2, 1, 8)) for value in (1.0, 0.0))
    noise = make_noise((2, 4, 3, 2, 2), 5)
    out = draw(held, noise, told, SAMPLING, negative=empty, guidance_scale=guidance)
    both = first.expand(2, -1, -1, -1, -1)
    assert len(network.seen) == 4
    for seen in network.seen:
        assert torch.equal(seen[:, :, :1], both.repeat(len(seen) // 2, 1, 1, 1, 1))
    torch.testing.assert_close(out[:, :, :1], both, atol=1e-5, rtol=1e-5)
    assert torch.equal(held.put_into(out)[:, :, :1], both) and torch.equal(held.put_into(out)[:, :, 1:], out[:, :, 1:])
    plain = draw(Watching(), noise, told, SAMPLING, negative=empty, guidance_scale=guidance, solver=flow_dpm_2m)
    torch.testing.assert_close(out[:, :, 1:], plain[:, :, 1:])
    assert not torch.allclose(plain[:, :, :1], both)
