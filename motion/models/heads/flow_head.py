"""Our extension: part of the prediction is a flow that warps the first frame (not in the MiraMo paper)."""

import torch
from einops import rearrange
from torch import Tensor

from ...layers.block_dct import APPEARANCE_CHANNELS, coefficients_to_pixels, pixels_to_coefficients
from ...layers.frame_curve import FrameCurve
from ...layers.letterbox import Letterbox
from ...layers.warp import resample_flow, unfold_grid, warp
from .flow_codec import FLOW_UNIT

INDEX_UNIT = 4.0  # raw flow is multiplied by frame index / 4: motion that grows with time is constant to the head
DEAD_DELTA = 0.03  # latent units; corrections this small (1.5 % of a colour's range) are the head's own noise
DEAD_FLOW = 0.02  # px a frame; so "still" is still to the bit


def compose_clean(
    raw: Tensor, first_latent: Tensor, frame_indices: Tensor, *, detach_warp: bool = False,
    dead_zone: bool = False, curve: FrameCurve | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Turn the head's output into clean latents: appearance = coefficients(warp(first frame, flow)) + delta.

    raw: (b, 200, t, h, w), 192 delta and 8 flow channels. first_latent: (b, 200, 1 or t, h, w).
    frame_indices: (t,) or (b, t). detach_warp: keep the appearance loss from moving the flow.
    curve: raw and frame_indices are those of its places; the result has the frames of the whole clip.
    dead_zone: set outputs below DEAD_DELTA and DEAD_FLOW to 0; for sampling, since there it has no gradient.
    Returns (clean (b, 200, t, h, w) float32; warped appearance (b, 192, t, h, w)).
    """
    b, _, t, h, w = raw.shape
    raw, first = raw.float(), first_latent[:, :, :1].float()
    index = frame_indices.to(raw.device).float().expand(b, t).view(b, 1, t, 1, 1) / INDEX_UNIT
    delta, flow = raw[:, :APPEARANCE_CHANNELS], raw[:, APPEARANCE_CHANNELS:]
    if dead_zone:
        delta = torch.where(delta.abs() < DEAD_DELTA, 0.0, delta)
        flow = torch.where(flow.abs() < DEAD_FLOW, 0.0, flow)
    flow = flow * index
    if curve is not None:
        delta, flow = curve.along(delta), curve.along(flow)
    with torch.autocast(raw.device.type, enabled=False):
        warped = _warp_first(first[:, :APPEARANCE_CHANNELS, 0], flow.detach() if detach_warp else flow)
    return torch.cat((warped + delta, flow), dim=1), warped


def _warp_first(first: Tensor, flow: Tensor) -> Tensor:
    """first (b, 192, h, w), flow (b, 8, t, h, w) -> coefficients of the warped picture (b, 192, t, h, w)."""
    t, h, w = flow.shape[2:]
    side = h * 8
    picture = coefficients_to_pixels(first).repeat_interleave(t, dim=0)
    grid = unfold_grid(rearrange(flow, "b c t h w -> (b t) c h w"), FLOW_UNIT)
    moved = warp(picture, resample_flow(grid, Letterbox(side, side, side)))
    return rearrange(pixels_to_coefficients(moved), "(b t) c h w -> b c t h w", t=t)
