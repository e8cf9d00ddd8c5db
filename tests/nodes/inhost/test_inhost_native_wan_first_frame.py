"""The start image as a clean frame 1 of the host's Wan: exact in the result, whichever sampler, expert and batch."""

import functools

import pytest
import tiny_native_wan as tiny
import torch
from comfy.patcher_extension import WrappersMP
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.nodes.models.native_wan_adapters import attach
from wan_adapters import CrossFrame, TextMLP

WIDTH = 256
SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "res_multistep", "lcm", "ddim", "er_sde",
            "uni_pc", "uni_pc_bh2")  # fmt: skip


@functools.cache
def base(seed=0):
    return tiny.native(seed=seed)


def put(model, clean=True):
    entries = StackEntry(CrossFrame(WIDTH)), StackEntry(TextMLP(WIDTH, blocks=(1,)))
    return attach(model, AdapterStack(entries), clean_first_frame=clean)


def off(out, first):
    return (out[:, :, :1] - first).abs().max().item()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frame_1_is_exact_with_every_sampler(core, figure, sampler):
    first = tiny.first_latent()
    out = tiny.sample(core, put(base()), first=first, sampler=sampler, steps=4, cfg=1.0)
    figure(f"frame 1 with {sampler}: largest error", off(out, first))
    assert torch.equal(out[:, :, :1], first) and out[:, :, 1:].std() > 0.1
    assert off(tiny.sample(core, put(base(), clean=False), first=first, sampler=sampler, steps=4, cfg=1.0), first) > 0.1


def test_the_network_sees_frame_1_clean_at_every_call_and_the_rest_as_it_was(core):
    seen, first = [], tiny.first_latent()

    def watch(executor, x, *args, **more):
        seen.append(x.clone())
        return executor(x, *args, **more)

    model = put(base())
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    tiny.sample(core, model, first=first, steps=3, cfg=3.0)
    shown = model.model.process_latent_in(first)
    assert len(seen) >= 3 and all(torch.equal(x[:, :, :1], shown.expand(len(x), -1, -1, -1, -1)) for x in seen)
    assert all(x[:, :, 1:].std() > 0.5 for x in seen[:1]) and not torch.equal(seen[0], seen[-1])


def test_two_steps_of_euler_are_the_formula(core):
    """x + (sigma' - sigma) v with frame 1 clean at each call; the network is asked by hand."""
    first, model = tiny.first_latent(), put(base())
    out = tiny.sample(core, model, first=first, steps=2, cfg=1.0)
    sampling = model.get_model_object("model_sampling")
    sigmas = [float(value) for value in (sampling.sigmas[999], sampling.sigmas[499], 0)]
    x = torch.randn(1, 16, tiny.FRAMES, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(5))
    shown = model.model.process_latent_in(first)
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers,
               "motionblocks_native_wan_shift": sampling.shift}  # fmt: skip
    for now, then in zip(sigmas, sigmas[1:]):
        x[:, :, :1] = shown
        at = torch.tensor([1000 * now])
        x = x + (then - now) * model.model.diffusion_model(x, at, tiny.prompt(1)[0][0], transformer_options=options)
    expected = model.model.process_latent_out(x)
    assert (out[:, :, 1:] - expected[:, :, 1:]).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("images, batch", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_each_video_of_a_batch_begins_with_its_image(core, figure, images, batch, cfg):
    first = tiny.first_latent(images)
    out = tiny.sample(core, put(base()), first=first, batch=batch, cfg=cfg)
    figure(f"frame 1, {images} images, {batch} videos, cfg {cfg:g}: largest error", off(out, first))
    assert torch.equal(out[:, :, :1], first.expand(batch, -1, -1, -1, -1))
    if batch == 2:
        assert not torch.equal(out[:1, :, 1:], out[1:, :, 1:])
    if images == 2:
        alone = tiny.sample(core, put(base()), first=first[:1], cfg=cfg)
        assert (out[:1] - alone).abs().max() <= 1e-4 * alone.abs().max()


def two_experts(core, high, low, first, sampler="euler"):
    """Two KSamplerAdvanced in a row: (latent between them, result)."""
    told = {"steps": 4, "cfg": 1.0, "sampler_name": sampler, "scheduler": "simple", "noise_seed": 5,
            "positive": tiny.prompt(1, first), "negative": tiny.prompt(2, first)}  # fmt: skip
    latent = {"samples": torch.zeros(1, 16, tiny.FRAMES, tiny.SIDE, tiny.SIDE)}
    (between,) = core("KSamplerAdvanced", model=high, add_noise="enable", start_at_step=0, end_at_step=2,
                      return_with_leftover_noise="enable", latent_image=latent, **told)  # fmt: skip
    (out,) = core("KSamplerAdvanced", model=low, add_noise="disable", start_at_step=2, end_at_step=10000,
                  return_with_leftover_noise="disable", latent_image=between, **told)  # fmt: skip
    return between["samples"], out["samples"]


@pytest.mark.parametrize("sampler", ["euler", "uni_pc"])
def test_two_experts_in_a_row_with_adapters_on_both_end_with_the_image(core, figure, sampler):
    first = tiny.first_latent()
    between, out = two_experts(core, put(base()), put(base(seed=8)), first, sampler)
    figure(f"frame 1 after two experts, adapters on both, {sampler}: largest error", off(out, first))
    assert torch.equal(out[:, :, :1], first) and off(between, first) > 0.1  # noise is left in frame 1, too
    if sampler == "euler":  # one run of the same model in two halves is the whole run
        whole = tiny.sample(core, put(base()), first=first, steps=4, cfg=1.0)
        halves = two_experts(core, put(base()), put(base()), first)[1]
        assert (halves - whole).abs().max() <= 1e-4 * whole.abs().max()


def test_an_expert_with_adapters_hands_frame_1_on_with_its_share_of_noise(core, figure):
    """Adapters on the first expert alone: the second sees frame 1 as noisy as the others, as the first saw it start."""
    first = tiny.first_latent()
    between, out = two_experts(core, put(base()), base(seed=8), first)
    sigma = float(base().get_model_object("model_sampling").sigmas[499])
    space = base().model
    shown, noise = space.process_latent_in(first), torch.randn(
        1, 16, tiny.FRAMES, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(5))  # fmt: skip
    noisy = sigma * noise[:, :, :1] + (1 - sigma) * shown
    found = space.process_latent_in(between)[:, :, :1] * 1.0
    figure("frame 1 between experts, adapters on the first: largest error against image and noise",
           (found - noisy / (1 - sigma)).abs().max().item())  # fmt: skip
    assert (found - noisy / (1 - sigma)).abs().max() <= 1e-4 * noisy.abs().max() / (1 - sigma)
    assert out.isfinite().all() and off(out, first) > 0.1


def test_adapters_on_the_second_expert_alone_end_with_the_image(core, figure):
    first = tiny.first_latent()
    _, out = two_experts(core, base(), put(base(seed=8)), first)
    figure("frame 1 after two experts, adapters on the second: largest error", off(out, first))
    assert torch.equal(out[:, :, :1], first)


@pytest.mark.parametrize("guider", ["BasicGuider", "CFGGuider"])
def test_custom_sampling_begins_with_the_image_too(core, guider):
    first, model = tiny.first_latent(), put(base())
    prompts = {"conditioning": tiny.prompt(1, first)}
    if guider == "CFGGuider":
        prompts = {"positive": tiny.prompt(1, first), "negative": tiny.prompt(2), "cfg": 3.0}
    (guide,), (sampler,) = core(guider, model=model, **prompts), core("KSamplerSelect", sampler_name="euler")
    (sigmas,) = core("BasicScheduler", model=model, scheduler="simple", steps=2, denoise=1.0)
    latent = {"samples": torch.zeros(1, 16, tiny.FRAMES, tiny.SIDE, tiny.SIDE)}
    out = core("SamplerCustomAdvanced", noise=core("RandomNoise", noise_seed=5)[0], guider=guide, sampler=sampler,
               sigmas=sigmas, latent_image=latent)[0]["samples"]  # fmt: skip
    assert torch.equal(out[:, :, :1], first)
    if guider == "BasicGuider":
        assert torch.equal(out, tiny.sample(core, model, first=first, cfg=1.0))


def test_start_latents_of_graphs_without_the_prefix_are_read(core):
    first = tiny.first_latent()
    positive = [[tiny.prompt(1)[0][0], {"first_latent": first}]]
    out = tiny.sample(core, put(base()), positive=positive, negative=tiny.prompt(2), cfg=1.0)
    assert torch.equal(out[:, :, :1], first)


def test_latents_and_prompts_that_come_in_are_not_written_into(core):
    first = tiny.first_latent()
    kept = first.clone()
    tiny.sample(core, put(base()), first=first)
    assert torch.equal(first, kept)
