"""Measure Motion Transfer as the host runs it: numbers, CLIP scores and whose they are, and what is refused."""

import json
from types import SimpleNamespace

import comfy.clip_vision
import comfy.model_management
import pytest
import torch

OUTPUTS = ("report", "figures", "picture")
VISION = {  # of a CLIP vision with two layers
    "image_size": 28, "patch_size": 14, "num_channels": 3, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "quick_gelu", "projection_dim": 768,
    "layer_norm_eps": 1e-5, "model_type": "clip_vision_model",
}  # fmt: skip


def sliding(dx, frames=5, seed=1, size=48):
    """A clip (t, size, size, 3) of a texture that goes dx px to the right a frame."""
    noise = torch.rand(1, 3, 10, 30, generator=torch.Generator().manual_seed(seed))
    wide = torch.nn.functional.interpolate(noise, (size, 3 * size), mode="bicubic").clamp(0, 1)[0].movedim(0, -1)
    return torch.stack([wide[:, size - dx * n : 2 * size - dx * n] for n in range(frames)])


@pytest.fixture
def measure(ours):
    def run(*clips, **more):
        done = dict(zip(OUTPUTS, ours["MeasureMotionTransfer"].execute(*clips, **more).args))
        return json.loads(done["figures"]), done["report"], done["picture"]

    return run


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    """A CLIP_VISION of the host with random weights."""
    sizes = tmp_path_factory.mktemp("vision") / "sizes.json"
    sizes.write_text(json.dumps(VISION))
    model = comfy.clip_vision.ClipVisionModel(str(sizes))
    draw = torch.Generator().manual_seed(1)
    model.load_sd({name: torch.randn(value.shape, generator=draw) / 8 for name, value in model.get_sd().items()
                   if value.is_floating_point()})  # fmt: skip
    return model


class Words:
    """Stands for a CLIP: one embedding for every prompt, of a width, from layers with a text_projection or none."""

    def __init__(self, width=768, projection=None, pooled=True):
        self.pooled = torch.randn(1, width, generator=torch.Generator().manual_seed(2)) if pooled else None
        self.cond_stage_model = torch.nn.Module()
        if projection is not None:
            self.cond_stage_model.text_projection = torch.nn.Linear(width, width, bias=False)
            self.cond_stage_model.text_projection.weight = torch.nn.Parameter(projection)

    def tokenize(self, text):
        return {"l": text}

    def encode_from_tokens(self, tokens, return_pooled=False):
        assert return_pooled and tokens == {"l": "a cat"}
        return torch.zeros(1, 4, 8), self.pooled


def test_a_video_is_compared_with_its_source_and_shown(measure, ours):
    source = sliding(2)
    found, report, picture = measure(source, source)
    assert found["motion_fidelity"] == pytest.approx(1, abs=1e-6) == found["moving_fidelity"]
    assert found["colour_leak"] == pytest.approx(1) and found["tracks"] > 100
    assert "not comparable with published tables" in report and picture.ndim == 4 and picture.shape[-1] == 3
    away, _, taller = measure(sliding(-2, seed=4), source, base=sliding(0, seed=4))
    assert away["moving_fidelity"] < 0 and away["base_moving_fidelity"] == 0 and taller.shape[1] > picture.shape[1]
    shown = ours["MeasureMotionTransfer"].execute(source, source).ui
    assert "motion fidelity 1.000" in shown["text"][0] and len(shown["images"]) == 1


def test_frame_counts_may_differ(measure):
    found, report, _ = measure(sliding(4, frames=4), sliding(2, frames=7))
    assert found["moving_fidelity"] > 0.95 and (found["frames"], found["source_frames"]) == (4, 7)
    assert "over the same share of time" in report
    assert "up to the end of the shorter" in measure(sliding(4, 4), sliding(2, 7), align="frame number")[1]


def test_a_clip_vision_of_the_host_says_how_alike_frames_are_and_the_report_which_it_is(measure, vision):
    source = sliding(3)
    found, report, _ = measure(source, source, clip_vision=vision)
    pictures = vision.encode_image(source).image_embeds.double()
    truth = torch.nn.functional.cosine_similarity(pictures[1:], pictures[:-1]).mean()
    assert found["temporal_consistency"] == pytest.approx(float(truth), abs=1e-6) and found["text_similarity"] is None
    assert "clip_vision_model at 28 px, 768 numbers a picture, as ViT-L/14 has" in report
    assert "no text score: connect a CLIP" in report and "768" in found["clip_model"]


def test_a_frozen_video_is_consistent_and_exposed_by_its_moving_tracks(measure, vision):
    frozen = sliding(0)
    found, _, _ = measure(frozen, sliding(3), clip_vision=vision)
    assert found["temporal_consistency"] == pytest.approx(1, abs=1e-5) and found["moving_fidelity"] == 0.0


def test_the_text_score_is_that_of_frames_and_prompt(measure, vision):
    source, words = sliding(3), Words(projection=torch.randn(768, 768))
    found, report, _ = measure(source, source, clip_vision=vision, clip=words, prompt="a cat")
    pictures = vision.encode_image(source).image_embeds.double()
    truth = torch.nn.functional.cosine_similarity(pictures, words.pooled.double()).mean()
    assert found["text_similarity"] == pytest.approx(float(truth), abs=1e-6) and "no text score" not in report


@pytest.mark.parametrize("words, said", [
    (Words(pooled=False), "no embedding of a whole prompt"), (Words(width=512), "512 numbers a prompt"),
    (Words(projection=torch.eye(768)), "without its text_projection"),
    (Words(projection=torch.zeros(768, 768)), "without its text_projection"),
])  # fmt: skip
def test_a_text_score_that_would_mean_nothing_is_left_out_and_said(measure, vision, words, said):
    found, report, _ = measure(sliding(1), sliding(1), clip_vision=vision, clip=words, prompt="a cat")
    assert found["text_similarity"] is None and said in report


def test_given_tracks_take_the_place_of_ours(measure):
    clip, points = torch.zeros(3, 32, 32, 3), range(4, 28, 4)
    right, down = (json.dumps([[{"x": x + a * n, "y": 9 + b * n} for n in range(3)] for x in points])
                   for a, b in ((3, 0), (0, 3)))  # fmt: skip
    found, _, _ = measure(clip, clip, source_tracks=right, tracks=right)
    assert found["motion_fidelity"] == 1 and found["tracker"] == "given tracks"
    assert measure(clip, clip, source_tracks=right, tracks=down)[0]["motion_fidelity"] == 0


@pytest.mark.parametrize("change, said", [
    ({"images": torch.zeros(1, 32, 32, 3)}, "images holds 1 image; at least 2"),
    ({"source_images": torch.zeros(1, 32, 32, 3)}, "source_images holds 1 image"),
    ({"base": torch.zeros(1, 32, 32, 3)}, "base holds 1 image"),
    ({"images": torch.zeros(3, 8, 32, 3)}, "sides of at least 16 px"), ({"align": "mine"}, "align is 'mine'"),
    ({"tracks": "[[1]]"}, "source_tracks is empty"), ({"tracks": "x", "source_tracks": "x"}, "source_tracks cannot"),
    ({"clip_vision": SimpleNamespace(encode_image=lambda part: SimpleNamespace())}, "no embedding of a picture"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_in_words(measure, change, said):
    given = {"images": sliding(1), "source_images": sliding(1), **change}
    with pytest.raises(ValueError, match=said):
        measure(given.pop("images"), given.pop("source_images"), **given)


def test_cancel_stops_it(measure, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "interrupt_processing", True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        measure(sliding(1), sliding(1))
