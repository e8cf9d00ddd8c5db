"""Clips become samples: the right windows, latents, flow and buckets, and a cache that is never trusted blindly."""

import dataclasses
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from pack.motion.builtin_model import load_builtin
from pack.motion.data import sample_store
from pack.motion.data.clips import Clip, ClipCollection, digest
from pack.motion.data.latent_dataset import (
    Encoders,
    TextEntry,
    WindowConfig,
    build_latent_dataset,
    builtin_encoders,
    resize_short_side,
)
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.training.latent_cache import MANIFEST, LatentCache
from pack.motion.metrics.dynamics import measure_dynamics
from pack.motion.models.heads.flow_codec import FlowCodec
from pack.motion.models.model_spec import DynamicsSpec, LinearVideoSpec

SVD = dataclasses.replace(LinearVideoSpec.ref_sdvae_p2(), dynamics=DynamicsSpec(measure_size=32))
SHORT = WindowConfig(num_frames=4, stride_min=1, stride_max=3, windows_per_clip=3, resolution=32)


def texture(height, width, seed=0):
    """A smooth periodic picture (3, height, width)."""
    noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed))
    tiled = torch.nn.functional.pad(noise.unsqueeze(0), (1, 1, 1, 1), mode="circular")
    return torch.nn.functional.interpolate(tiled, size=(height, width), mode="bicubic")[0].clamp(0, 1)


def sliding_clip(name="a.mp4", caption="pan left", *, num_frames=20, size=(48, 64), step=2, seed=0, flow=None):
    """A clip whose picture slides to the right by `step` px a frame."""
    picture = texture(*size, seed)

    def read(indices):
        return torch.stack([picture.roll(step * index, -1) for index in indices])

    mark = digest("sliding", str((num_frames, size, step, seed)))
    return Clip(name, caption, num_frames, 8.0, *size, mark, read, flow)


class Counting:
    """Encoders of a pretend VAE (mean of 8 x 8 px, 4 channels) that count their calls."""

    def __init__(self, fingerprint="vae one", channels=4):
        self.calls, self.texts, self.channels = 0, [], channels
        self.encoders = Encoders(self.frames, self.text, fingerprint, spatial_multiple=8)

    def frames(self, frames):
        self.calls += 1
        small = torch.nn.functional.avg_pool3d(frames, (1, 8, 8))
        return torch.cat((small, small, small), 1)[:, : self.channels]

    def text(self, caption):
        self.texts.append(caption)
        return TextEntry(torch.full((2, 3), float(len(caption))), torch.ones(2))


def build(clips, folder=None, *, vae=None, windows=SHORT, spec=SVD, on_step=None):
    vae = vae or Counting()
    collection = clips if isinstance(clips, ClipCollection) else ClipCollection(tuple(clips))
    return build_latent_dataset(collection, spec, vae.encoders, windows, cache_folder=folder, on_step=on_step)


def test_samples_are_scaled_latents_of_the_windows_frames():
    clip, vae = sliding_clip(), Counting()
    data = build([clip], vae=vae)
    assert len(data.samples) == 3 == vae.calls
    for index, info in enumerate(data.samples):
        start, stride = (int(info.name.split()[place]) for place in (2, 4))
        frames = clip.read([start + stride * n for n in range(4)])
        sized = resize_short_side(frames, 32, 8)
        truth = vae.frames(sized.movedim(0, 1).unsqueeze(0))[0] * SVD.latent.scale_factor
        torch.testing.assert_close(data.sample(index)["latents"], truth)
        assert info.shape == tuple(truth.shape) == (4, 4, 4, 5) and info.caption == "pan left"


def test_what_encoders_make_beside_the_latents_is_kept_with_them_and_is_another_entry(tmp_path):
    def first_frames(frames):
        assert frames.shape[:3] == (1, 3, 4)
        return {"start": frames[0, :, 0]}

    clip, plain, more = sliding_clip(), Counting(), Counting()
    more.encoders = dataclasses.replace(more.encoders, encode_beside=first_frames)
    without, made = (build([clip], tmp_path, vae=vae) for vae in (plain, more))
    again = build([clip], tmp_path, vae=more)
    assert more.calls == len(made.samples) and set(without.sample(0)) == {"latents", "motion_bucket_id"}
    for index, info in enumerate(made.samples):
        start = int(info.name.split()[2])
        truth = resize_short_side(clip.read([start]), 32, 8)[0]
        for data in (made, again):
            sample, latents = data.sample(index), without.sample(index)["latents"]
            assert torch.equal(sample["start"], truth) and torch.equal(sample["latents"], latents)
            sample["start"].zero_()  # a copy


def test_captions_with_a_fingerprint_of_their_own_leave_encoded_clips_and_are_another_data_set(tmp_path):
    vae, datasets = Counting(), []
    for name in ("one", "other"):
        vae.encoders = dataclasses.replace(vae.encoders, text_fingerprint=name)
        datasets.append(build([sliding_clip()], tmp_path, vae=vae))
    assert vae.calls == 3 and vae.texts == ["", "pan left"] * 2
    differ = datasets[1].differences(datasets[0].record())
    assert differ == ["the VAE, the text encoder or their number type is another one"]


def test_bucket_is_measured_on_the_windows_own_frames():
    slow, fast = sliding_clip("slow", step=0), sliding_clip("fast", step=5)
    data = build([slow, fast], windows=dataclasses.replace(SHORT, stride_max=1))
    for info in data.samples:
        name, start = info.name.split()[0], int(info.name.split()[2])
        frames = {"slow": slow, "fast": fast}[name].read(range(start, start + 4)).movedim(1, -1)
        truth = measure_dynamics(frames, spec=SVD.dynamics, with_flow=False).bucket
        assert info.motion_bucket_id == truth and (truth > 0) == (name == "fast")


def test_empty_caption_is_always_there_and_others_only_when_a_clip_has_them():
    data = build([sliding_clip()])
    assert data.text("").context.sum() == 0 and data.text("pan left").context[0, 0] == 8
    with pytest.raises(ConfigError, match="'zoom' was not encoded"):
        data.text("zoom")


def test_clips_of_different_sizes_make_buckets_by_size():
    data = build([sliding_clip("wide", size=(32, 64)), sliding_clip("tall", size=(64, 32)), sliding_clip("wide 2")])
    assert set(data.shapes) == {(4, 4, 4, 8), (4, 4, 8, 4), (4, 4, 4, 5)}
    assert sorted(index for rows in data.shapes.values() for index in rows) == list(range(len(data.samples)))
    assert all(data.samples[index].shape == shape for shape, rows in data.shapes.items() for index in rows)


def test_stride_is_lowered_for_short_clips_and_the_summary_says_so():
    windows = WindowConfig(num_frames=8, stride_min=3, stride_max=10, windows_per_clip=6, resolution=32)
    data = build([sliding_clip("long", num_frames=80), sliding_clip("short", num_frames=16)], windows=windows)
    strides = {name: {int(i.name.split()[-1]) for i in data.samples if i.name.startswith(name)}
               for name in ("long", "short")}  # fmt: skip
    assert strides["short"] <= {1, 2} and min(strides["long"]) >= 3 and max(strides["long"]) <= 10
    assert "1 clips are too short for a stride of 3; theirs was lowered" in data.summary()


def test_a_clip_shorter_than_a_window_gives_one_shorter_window_not_four_equal_ones():
    data = build([sliding_clip(num_frames=3)])
    assert [info.shape[1] for info in data.samples] == [3]
    assert "shorter than 4 frames" in data.summary()


def test_one_frame_cannot_teach_a_residual():
    with pytest.raises(ConfigError, match="a.mp4: windows of 1 frame; this model needs at least 2"):
        build([sliding_clip(num_frames=1)])
    still = dataclasses.replace(SVD, objective="t2v")
    assert build([sliding_clip(num_frames=1)], spec=still).samples[0].motion_bucket_id == 0


def test_windows_do_not_depend_on_the_other_clips():
    alone = build([sliding_clip("b")])
    among = build([sliding_clip("a", seed=4), sliding_clip("b"), sliding_clip("c", seed=5)])
    assert [i.name for i in alone.samples] == [i.name for i in among.samples if i.name.startswith("b")]


def test_samples_are_the_callers_own_and_can_be_trained_on_when_built_in_inference_mode():
    with torch.inference_mode():
        data = build([sliding_clip()])
        first = data.sample(0)["latents"]
    again = first.clone()
    first.zero_()
    torch.testing.assert_close(data.sample(0)["latents"], again)
    weight = torch.ones(1, requires_grad=True)
    ((data.sample(0)["latents"] * weight).sum() + (data.text("").context * weight).sum()).backward()
    assert weight.grad is not None


def test_second_build_encodes_nothing(tmp_path):
    vae = Counting()
    one = build([sliding_clip()], tmp_path / "new" / "cache", vae=vae)
    two = build([sliding_clip()], tmp_path / "new" / "cache", vae=vae)
    assert vae.calls == 3 and vae.texts == ["", "pan left"]
    assert one.samples == two.samples and one.fingerprint == two.fingerprint
    for index in range(3):
        assert torch.equal(one.sample(index)["latents"], two.sample(index)["latents"])
    assert "cache: 3 samples found, 0 made" in two.summary()


@pytest.mark.parametrize("damage", ["emptied", "cut", "flipped", "gone", "unlisted"])
def test_a_damaged_entry_is_made_again_and_counted(tmp_path, damage):
    vae = Counting()
    truth = build([sliding_clip()], tmp_path, vae=vae)
    entry = next(path for path in sorted(tmp_path.glob("*.safetensors")) if b'"bucket"' in path.read_bytes())
    raw = entry.read_bytes()
    if damage == "emptied":
        entry.write_bytes(b"")
    elif damage == "cut":
        entry.write_bytes(raw[:-4])
    elif damage == "flipped":
        entry.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "gone":
        entry.unlink()
    else:
        (tmp_path / MANIFEST).write_text("{")
    again = build([sliding_clip()], tmp_path, vae=vae)
    assert vae.calls == (6 if damage == "unlisted" else 4)
    assert all(torch.equal(truth.sample(i)["latents"], again.sample(i)["latents"]) for i in range(3))
    assert damage == "unlisted" or "1 damaged and made again" in again.summary()


def test_an_entry_that_cannot_be_a_sample_is_made_again_although_its_sum_is_right(tmp_path):
    vae = Counting()
    truth = build([sliding_clip()], tmp_path, vae=vae)
    listed = json.loads((tmp_path / MANIFEST).read_text())
    entries = sorted(path for path in tmp_path.glob("*.safetensors") if b'"bucket"' in path.read_bytes())
    good, _ = read_safetensors(entries[0])
    latents = good["latents"]
    wrong = ({"latents": latents}, {"bucket": "9" * 5000}), ({"latents": latents[0]}, {"bucket": "3"}), (
        {"latents": latents}, {"bucket": "20"})  # fmt: skip
    for path, (tensors, metadata) in zip(entries, wrong):
        write_safetensors(path, tensors, metadata)
        listed["entries"][path.stem] = {"size": path.stat().st_size, "sha256": sha256(path.read_bytes()).hexdigest()}
    (tmp_path / MANIFEST).write_text(json.dumps(listed))
    again = build([sliding_clip()], tmp_path, vae=vae)
    assert vae.calls == 6 and all(torch.equal(truth.sample(i)["latents"], again.sample(i)["latents"]) for i in range(3))


def test_a_list_of_entries_too_long_to_be_read_is_refused_and_not_lost(tmp_path):
    (tmp_path / MANIFEST).write_bytes(b" " * (40 * 2**20 + 1))
    with pytest.raises(CheckpointError, match="manifest.json: longer than 41943040 bytes; choose another"):
        LatentCache(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"entries": ' + "[" * 900 + "]" * 900 + "}", '{"a": 1, "a": 1}'])
def test_a_list_of_entries_that_is_no_list_is_made_again(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    assert LatentCache(tmp_path).entries == {}


def test_cache_of_another_vae_is_never_used(tmp_path):
    build([sliding_clip()], tmp_path, vae=Counting())
    other = Counting("vae two")
    data = build([sliding_clip()], tmp_path, vae=other)
    assert other.calls == 3 and other.texts == ["", "pan left"]
    assert "0 samples found, 3 made" in data.summary()


def test_another_size_or_another_dynamics_scale_is_another_entry(tmp_path):
    vae = Counting()
    build([sliding_clip()], tmp_path, vae=vae)
    build([sliding_clip()], tmp_path, vae=vae, windows=dataclasses.replace(SHORT, resolution=40))
    scale = dataclasses.replace(SVD.dynamics, degree_max=0.5)
    build([sliding_clip()], tmp_path, vae=vae, spec=dataclasses.replace(SVD, dynamics=scale))
    assert vae.calls == 9


def test_a_cancelled_build_goes_on_where_it_was(tmp_path):
    class Cancelled(Exception):
        pass

    def cancel(done, total):
        assert total == 6
        if done == 4:
            raise Cancelled

    clips, vae = [sliding_clip("a"), sliding_clip("b", seed=1)], Counting()
    with pytest.raises(Cancelled):
        build(clips, tmp_path, vae=vae, on_step=cancel)
    steps = []
    build(clips, tmp_path, vae=vae, on_step=lambda *step: steps.append(step))
    assert vae.calls == 6 and steps == [(n, 6) for n in range(1, 7)]


KILLED = """
import os, signal, sys, time
sys.path[:0] = sys.argv[1:3]
import conftest, test_latent_dataset as t

def kill(done, total):
    if done == 4:
        time.sleep(1.1)  # longer than the list of entries stays unwritten
    if done == 6:
        os.kill(os.getpid(), signal.SIGKILL)

t.build([t.sliding_clip(name, seed=seed) for seed, name in enumerate("abc")], sys.argv[3], on_step=kill)
"""


@pytest.mark.slow
def test_a_build_killed_half_way_goes_on_with_what_was_listed(tmp_path):
    here = Path(__file__).resolve()
    command = [sys.executable, "-c", KILLED, str(here.parent), str(here.parents[2]), str(tmp_path)]
    assert subprocess.run(command, timeout=300).returncode == -9
    finished = len(json.loads((tmp_path / MANIFEST).read_text())["entries"]) - 2  # two are captions
    vae = Counting()
    clips = [sliding_clip(name, seed=seed) for seed, name in enumerate("abc")]
    data = build(clips, tmp_path, vae=vae)
    assert finished >= 4 and vae.calls == 9 - finished
    plain = build(clips)
    assert data.fingerprint == plain.fingerprint
    assert all(torch.equal(data.sample(i)["latents"], plain.sample(i)["latents"]) for i in range(9))


def test_a_vae_of_another_model_is_refused_by_its_channels():
    with pytest.raises(ShapeError, match=r"gave latents \(1, 9, 4, 4, 5\); this model needs \(1, 4, 4, h, w\)"):
        build([sliding_clip()], vae=Counting(channels=9))


def test_latents_that_are_not_finite_are_refused_and_not_cached(tmp_path):
    vae = Counting()
    broken = dataclasses.replace(vae.encoders, encode_frames=lambda frames: vae.frames(frames) / 0)
    with pytest.raises(ShapeError, match="NaN or infinity"):
        build_latent_dataset(ClipCollection((sliding_clip(),)), SVD, broken, SHORT, cache_folder=tmp_path)
    assert not any(b'"bucket"' in path.read_bytes() for path in tmp_path.glob("*.safetensors"))


def test_a_cache_folder_that_cannot_be_is_an_error_with_a_way_out(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(CheckpointError, match="choose another folder"):
        build([sliding_clip()], tmp_path / "taken" / "cache")


def test_cache_of_a_newer_pack_is_left_alone(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps({"format_version": 2, "entries": {}}))
    with pytest.raises(CheckpointError, match="format 2, this pack reads up to 1; update the pack"):
        build([sliding_clip()], tmp_path)


def test_two_builds_in_one_folder_keep_each_others_entries(tmp_path):
    with LatentCache(tmp_path) as one, LatentCache(tmp_path) as two:
        one.put("a" * 32, {"x": torch.ones(1)}, {})
        two.put("b" * 32, {"x": torch.zeros(1)}, {})
    both = LatentCache(tmp_path)
    assert both.get("a" * 32)[0]["x"] == 1 and both.get("b" * 32)[0]["x"] == 0


def test_large_data_sets_are_read_from_the_cache_and_say_when_it_was_emptied(tmp_path, monkeypatch):
    truth = build([sliding_clip()])
    monkeypatch.setattr(sample_store, "KEEP_BYTES", 0)
    data = build([sliding_clip()], tmp_path)
    assert all(torch.equal(data.sample(i)["latents"], truth.sample(i)["latents"]) for i in range(3))
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match="changed or gone since it was made; build the data set again"):
        data.sample(0)["latents"]


def test_a_changed_data_set_is_told_apart_line_by_line():
    old = build([sliding_clip("a"), sliding_clip("b", seed=1), sliding_clip("c", seed=2)])
    new = build(
        [sliding_clip("a", "zoom in"), sliding_clip("b", seed=9), sliding_clip("d", seed=3)],
        windows=dataclasses.replace(SHORT, stride_max=2), vae=Counting("vae two"),
    )  # fmt: skip
    record = json.loads(json.dumps(old.record()))
    assert old.differences(record) == []
    found = new.differences(record)
    assert any("1 clips added: d" in line for line in found) and any("1 clips gone: c" in line for line in found)
    assert "b: its frames changed" in found and "a: its caption changed" in found
    assert "windows: stride_max was 3, is 2" in found and any("VAE" in line for line in found)
    order = build([sliding_clip("b", seed=1), sliding_clip("a"), sliding_clip("c", seed=2)])
    assert order.differences(record) == ["the clips are in another order"]


def test_windows_are_read_strictly_from_plain_values():
    assert WindowConfig.from_dict({"num_frames": 8}) == WindowConfig(num_frames=8)
    assert WindowConfig.from_dict(WindowConfig().to_dict()) == WindowConfig()
    with pytest.raises(ConfigError, match="does not know frames"):
        WindowConfig.from_dict({"frames": 8})
    with pytest.raises(ConfigError, match="num_frames is -1.*stride_min 9 is above stride_max 2"):
        WindowConfig(num_frames=-1, stride_min=9, stride_max=2)


def square_clip(flow=None):
    return sliding_clip(size=(64, 64), step=1, flow=flow)


def test_builtin_samples_carry_the_true_flow_where_it_is_known():
    def flow(indices):
        steps = torch.tensor([float(indices[0] - index) for index in indices])
        return torch.stack((steps, steps * 0), 1).view(-1, 2, 1, 1).expand(-1, 2, 16, 16)

    model = load_builtin()
    windows = WindowConfig(num_frames=5, stride_min=2, stride_max=2, windows_per_clip=1)
    clips = ClipCollection((square_clip(flow),))
    data = build_latent_dataset(clips, model.spec, builtin_encoders(model), windows, cache_folder=None)
    found = FlowCodec(64).flow_of(data.sample(0)["latents"].unsqueeze(0))[0]
    truth = flow([0, 2, 4, 6, 8])
    torch.testing.assert_close(found, truth.contiguous())
    assert data.samples[0].shape == (200, 5, 8, 8)
    assert data.text("pan left").pooled is not None and data.text("").attention_mask.sum() == 1


def test_builtin_samples_carry_an_estimated_flow_where_it_is_not():
    model = load_builtin()
    windows = WindowConfig(num_frames=5, stride_min=1, stride_max=1, windows_per_clip=1)
    clips = ClipCollection((square_clip(),))
    data = build_latent_dataset(clips, model.spec, builtin_encoders(model), windows, cache_folder=None)
    found = FlowCodec(64).flow_of(data.sample(0)["latents"].unsqueeze(0))[0]
    assert found[4, 0].median() == pytest.approx(-4, abs=0.1) and found[4, 1].abs().median() < 0.1
    assert found[0].abs().max() == 0


def test_builtin_encoders_of_other_text_weights_have_another_fingerprint():
    one, two = load_builtin(), load_builtin()
    assert builtin_encoders(one).fingerprint == builtin_encoders(two).fingerprint
    with torch.no_grad():
        two.text_encoder.embedding.weight[1] += 1
    assert builtin_encoders(one).fingerprint != builtin_encoders(two).fingerprint


def test_a_clip_that_reads_otherwise_than_it_says_is_refused():
    clip = dataclasses.replace(sliding_clip(), height=50)
    with pytest.raises(ShapeError, match="a.mp4: its frames came as .* was the file changed"):
        build([clip])


def test_a_collection_sums_itself_up_and_shows_first_and_middle_frames():
    clips = (sliding_clip("a"), sliding_clip("b", "", size=(96, 32), seed=1))
    collection = ClipCollection(clips, (("c.mp4", "one frame"),), 8.0, ("a note",))
    text = collection.summary()
    assert text.startswith("2 clips, 40 frames at 8 fps (20 a clip)")
    assert "64x48 (1), 32x96 (1)" in text and "(none) (1)" in text and "a note" in text and "c.mp4: one frame" in text
    preview = collection.preview(4)
    assert preview.shape == (4, 48, 64, 3)
    torch.testing.assert_close(preview[0], clips[0].read([0])[0].movedim(0, -1))
    torch.testing.assert_close(preview[1], clips[0].read([10])[0].movedim(0, -1))
    assert preview[2][:, :20].max() == 0  # a tall clip stands on black
    changed = ClipCollection((clips[0], dataclasses.replace(clips[1], caption="still")))
    assert collection.fingerprint != changed.fingerprint


def test_a_collection_without_clips_is_refused_with_the_reasons():
    with pytest.raises(ConfigError, match=r"no usable clip \(c.mp4: one frame\); at least one is needed"):
        ClipCollection((), (("c.mp4", "one frame"),))
