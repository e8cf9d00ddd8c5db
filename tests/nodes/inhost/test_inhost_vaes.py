"""VAEs of public models on the host's VAE socket: DC-AE, Wan 2.1 and LTX-2 against diffusers, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import tiny
import torch
from pack.motion.errors import CheckpointError, ConfigError, ShapeError
from pack.motion.io.vaes.dcae import dcae_network
from pack.motion.io.vaes.recognise import open_vae
from pack.motion.models.latent_spaces import SPACES
from pack.motion.models.model_spec import LatentSpec, LinearVideoSpec
from pack.nodes.training_run.encoders import check_vae, host_encoders
from pack.nodes.vaes_on_socket import framewise, public, recognise
from safetensors.torch import load_file, save_file

try:
    from comfy import memory_management
except ImportError:  # the oldest host
    memory_management = None

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def load(ours, vae_folder):
    """Put a folder or file into models/vae and load it by its name with the node: load(source) -> VAE."""
    placed = set()

    def call(source, name="", **options):
        target = vae_folder / (name or source.name)
        if source != target:
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        placed.add(target)
        return ours["LoadVAE"].execute(target.name, **options).args[0]

    yield call
    for target in placed:
        (shutil.rmtree if target.is_dir() else lambda path: path.unlink(missing_ok=True))(target)


@pytest.fixture
def dcae(load, oracle):
    return load(oracle("dcae") / "conv", weight_dtype="fp32")


@pytest.fixture
def truth(oracle):
    return load_file(oracle("dcae") / "conv.safetensors")


def image(pixels):
    """(t, c, h, w) -> IMAGE (t, h, w, c)."""
    return pixels.movedim(1, -1).contiguous()


def shown(decoded):
    """Pixels of diffusers (t, c, h, w) in [-1, 1] as IMAGE."""
    return ((decoded + 1) / 2).clamp(0, 1).movedim(1, -1)


def apart(found, need):
    return float((found - need).abs().max() / need.abs().max())


@pytest.mark.parametrize("kind", ["conv", "shuffle"])
def test_dcae_encodes_and_decodes_as_diffusers_does(load, oracle, core, kind):
    truth = load_file(oracle("dcae") / f"{kind}.safetensors")
    vae = load(oracle("dcae") / kind, weight_dtype="fp32")
    for row in range(2):
        latent = core("VAEEncode", vae=vae, pixels=image(truth["pixels"][row]))[0]["samples"]
        assert latent.shape == (1, 32, 3, 2, 3)
        assert apart(latent[0].movedim(1, 0), truth["latents"][row]) <= 1e-5
    both = truth["latents"].movedim(2, 1)  # two videos of three frames at once
    frames = core("VAEDecode", vae=vae, samples={"samples": both})[0]
    assert frames.shape == (6, 64, 96, 3)
    assert apart(frames, shown(truth["decoded"].flatten(0, 1))) <= 1e-5


def test_frames_in_chunks_give_what_all_at_once_give(dcae, truth, monkeypatch):
    pixels, latents = image(truth["pixels"][0]), truth["latents"][:1].movedim(2, 1)
    together = dcae.encode(pixels), dcae.decode(latents)
    monkeypatch.setattr(framewise, "CHUNK", 64 * 96)
    assert dcae.first_stage_model.load.frames_at_once(64 * 96, decodes=True) == 1
    assert apart(dcae.encode(pixels), together[0]) <= 1e-5 and apart(dcae.decode(latents), together[1]) <= 1e-5


def test_cancel_works_between_chunks(dcae, truth, monkeypatch):
    import comfy.model_management as memory

    memory.interrupt_current_processing()
    with pytest.raises(memory.InterruptProcessingException):
        dcae.decode(truth["latents"][:1].movedim(2, 1))
    memory.interrupt_current_processing(False)


def test_one_frame_decodes_as_a_picture(dcae, truth):
    frame = dcae.decode(truth["latents"][0, :1])
    assert frame.shape == (1, 64, 96, 3) and apart(frame, shown(truth["decoded"][0, :1])) <= 1e-5


def test_tiles_give_the_whole_picture(dcae, truth, core):
    latents = {"samples": truth["latents"][:1].movedim(2, 1)}
    options = {"overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    frames = core("VAEDecodeTiled", vae=dcae, samples=latents, tile_size=512, **options)[0]
    assert apart(frames, shown(truth["decoded"][0])) <= 1e-5  # one tile holds all of it
    pixels = image(truth["pixels"][0])
    latent = core("VAEEncodeTiled", vae=dcae, pixels=pixels, tile_size=512, **options)[0]["samples"]
    assert apart(latent[0].movedim(1, 0), truth["latents"][0]) <= 1e-5
    latent = core("VAEEncodeTiled", vae=dcae, pixels=pixels, tile_size=64, **options)[0]["samples"]
    assert latent.shape == (1, 32, 3, 2, 3) and latent.isfinite().all()


def test_out_of_memory_is_answered_with_tiles(dcae, truth, monkeypatch):
    import comfy.model_management as memory

    network, calls = dcae.first_stage_model.network, []

    def fails_once(name):
        real = getattr(network, name)

        def call(values):
            calls.append(name)
            if calls.count(name) == 1:
                raise memory.OOM_EXCEPTION("simulated")
            return real(values)

        monkeypatch.setattr(network, name, call)

    fails_once("decode")
    fails_once("encode")
    frames = dcae.decode(truth["latents"][:1].movedim(2, 1))
    assert apart(frames[0], shown(truth["decoded"][0])) <= 1e-5
    latent = dcae.encode(image(truth["pixels"][0]))
    assert apart(latent[0].movedim(1, 0), truth["latents"][0]) <= 1e-5
    assert calls.count("decode") == 2 and calls.count("encode") == 2


def test_bf16_weights_compute_in_bf16_and_float16_is_never_chosen(load, oracle, truth, monkeypatch):
    from comfy.cli_args import args

    vae = load(oracle("dcae") / "conv", weight_dtype="bf16")
    kinds = {weight.dtype for weight in vae.first_stage_model.parameters()}
    assert kinds == {torch.bfloat16} and vae.vae_dtype == torch.bfloat16
    frames = vae.decode(truth["latents"][:1].movedim(2, 1))
    assert 0 < apart(frames[0].float(), shown(truth["decoded"][0])) < 0.2
    monkeypatch.setattr(args, "fp16_vae", True)
    assert framewise.chosen_dtype() == torch.float32
    monkeypatch.setattr(args, "fp16_vae", False)
    monkeypatch.setattr(args, "bf16_vae", True)
    assert framewise.chosen_dtype() == torch.bfloat16


def test_low_memory_changes_no_pixel(dcae, truth):
    latents = truth["latents"][:1].movedim(2, 1)
    whole = dcae.decode(latents)
    dcae.patcher.unpatch_model()
    with torch.inference_mode(False):
        dcae.patcher.patch_model(torch.device("cpu"), lowvram_model_memory=1)
    try:
        assert torch.equal(dcae.decode(latents), whole)
    finally:
        dcae.patcher.unpatch_model()


def test_memory_that_is_asked_for_grows_with_the_chunk_and_not_with_the_video(dcae):
    one, many = (dcae.memory_used_decode((1, 32, t, 32, 32), torch.bfloat16) for t in (1, 100))
    pixels = 1024 * 1024
    assert one == (720 + 6) * pixels * 2 and many == (720 + 600) * pixels * 2
    assert dcae.memory_used_encode((1, 3, 1, 512, 512), torch.float32) == 806 * 512 * 512 * 4


def test_alpha_is_dropped_and_nothing_is_written_into_the_picture(dcae, core):
    pixels = tiny.randn(2, 64, 96, 4).sigmoid()
    kept = pixels.clone()
    latent = core("VAEEncode", vae=dcae, pixels=pixels)[0]["samples"]
    assert latent.shape == (1, 32, 2, 2, 3) and torch.equal(pixels, kept)
    assert apart(latent, core("VAEEncode", vae=dcae, pixels=pixels[..., :3].contiguous())[0]["samples"]) <= 1e-6


def test_sides_that_the_host_would_crop_are_refused_with_the_row(dcae):
    for encode in (dcae.encode, dcae.encode_tiled):
        with pytest.raises(ShapeError, match="the picture is 40x20 px; .*32x32 or 64x32 .*docs/models.md, row DC-AE"):
            encode(torch.zeros(1, 20, 40, 3))
        with pytest.raises(ShapeError, match="the video is 100x64 px; DC-AE f32c32 needs multiples of 32; .*96x64"):
            encode(torch.zeros(2, 64, 100, 3))
    assert dcae.encode(torch.zeros(1, 32, 64, 3)).shape == (1, 32, 1, 1, 2)


def test_latents_of_another_model_are_refused_with_the_row(dcae):
    for latents in (torch.zeros(1, 16, 2, 4, 4), torch.zeros(1, 4, 4, 4)):
        for decode in (dcae.decode, dcae.decode_tiled):
            with pytest.raises(ShapeError, match="decode with the VAE that belongs to the model.*row DC-AE"):
                decode(latents)


def test_wan_vae_in_diffusers_names_and_in_the_hosts_computes_what_diffusers_does(load, oracle, core, vae_folder):
    truth = load_file(oracle("wan_vae") / "wan.safetensors")
    vae = load(oracle("wan_vae") / "vae", "wan", weight_dtype="fp32")
    assert recognise.space_of_vae(vae) is SPACES["wan21"]
    latent = core("VAEEncode", vae=vae, pixels=image(truth["pixels"][0].movedim(0, 1)))[0]["samples"]
    assert latent.shape == truth["latents"].shape == (1, 16, 2, 2, 4)
    assert apart(latent, truth["latents"]) <= 1e-5
    frames = core("VAEDecode", vae=vae, samples={"samples": truth["latents"]})[0]
    assert apart(frames, shown(truth["decoded"][0].movedim(0, 1))) <= 1e-5
    with pytest.raises(ConfigError, match="num_frames is 4; Wan 2.1 VAE needs 4k \\+ 1; use 5 .*row Wan 2.1 VAE"):
        vae.encode(torch.zeros(4, 16, 32, 3))
    with pytest.raises(ShapeError, match="Wan 2.1 VAE decodes \\(b, 16, t, h, w\\).*row Wan 2.1 VAE"):
        vae.decode(torch.zeros(1, 32, 2, 4, 4))
    own = vae_folder / "wan_2.1_vae.safetensors"
    with torch.inference_mode(False):
        save_file({name: weight.half() for name, weight in vae.first_stage_model.state_dict().items()}, own)
    again = load(own, weight_dtype="fp32")
    assert apart(core("VAEEncode", vae=again, pixels=image(truth["pixels"][0].movedim(0, 1)))[0]["samples"],
                 truth["latents"]) <= 1e-5  # fmt: skip


def test_svd_vae_decodes_fourteen_frames_together_as_diffusers_does(load, oracle, core):
    truth = load_file(oracle("svd_vae") / "svd.safetensors")
    vae = load(oracle("svd_vae") / "vae", "svd", weight_dtype="fp32")
    assert recognise.space_of_vae(vae) is SPACES["svd"]
    latent = core("VAEEncode", vae=vae, pixels=image(truth["pixels"]))[0]["samples"]
    assert latent.shape == (1, 4, 16, 4, 6) and apart(latent[0].movedim(1, 0), truth["latents"]) <= 1e-5
    both = truth["latents"].movedim(1, 0).expand(2, -1, -1, -1, -1)  # runs never reach into the next video
    frames = core("VAEDecode", vae=vae, samples={"samples": both})[0]
    assert frames.shape == (32, 32, 48, 3)
    assert apart(frames.unflatten(0, (2, 16)), shown(truth["decoded"]).expand(2, -1, -1, -1, -1)) <= 1e-5


def test_ltx2_vae_in_diffusers_names_computes_what_diffusers_does(load, oracle, core):
    truth = load_file(oracle("ltx2_vae") / "ltx2.safetensors")
    vae = load(oracle("ltx2_vae") / "vae", "ltx2", weight_dtype="fp32")
    assert recognise.space_of_vae(vae) is SPACES["ltx2"]
    latent = core("VAEEncode", vae=vae, pixels=image(truth["pixels"][0].movedim(0, 1)))[0]["samples"]
    assert latent.shape == truth["latents"].shape == (1, 128, 2, 2, 2)
    assert apart(latent, truth["latents"]) <= 1e-5
    frames = core("VAEDecode", vae=vae, samples={"samples": truth["latents"]})[0]
    assert apart(frames, shown(truth["decoded"][0].movedim(0, 1))) <= 1e-5


def test_ltx2_vae_in_the_hosts_names_brings_its_own_config(load, vae_folder):
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    down = [["compress_space_res", 1], ["compress_time_res", 1], ["compress_all_res", 1], ["compress_all_res", 8]]
    config = {
        "dims": 3, "latent_channels": 128, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
        "encoder_blocks": [[kind, {"multiplier": wider}] for kind, wider in down],
        "decoder_blocks": [["compress_all", {"residual": True, "multiplier": 1}]] * 3 + [["res_x", {"num_layers": 1}]],
        "causal_decoder": False,
    }  # fmt: skip
    with torch.inference_mode(False), torch.random.fork_rng():
        torch.manual_seed(0)
        network = VideoVAE(config=config).eval()
        state = {name: 0.02 * torch.randn(value.shape) for name, value in network.state_dict().items()}
        state["per_channel_statistics.std-of-means"] = torch.ones(128)
        network.load_state_dict(state)
        kept = {name: value for name, value in state.items() if "of-stds" not in name and "channel" not in name[23:]}
        save_file({"vae." + name: value for name, value in kept.items()}, vae_folder / "ltx.safetensors",
                  {"config": json.dumps({"vae": config})})  # fmt: skip
    pixels = tiny.randn(9, 64, 64, 3).sigmoid()
    latent = load(vae_folder / "ltx.safetensors", weight_dtype="fp32").encode(pixels)
    truth = network.encode(pixels.movedim(-1, 0).unsqueeze(0) * 2 - 1)
    assert latent.shape == (1, 128, 2, 2, 2) and apart(latent, truth) <= 1e-6
    save_file({"vae." + name: value for name, value in kept.items()}, vae_folder / "ltx.safetensors",
              {"config": json.dumps({"vae": {"latent_channels": 128}})})  # fmt: skip
    with pytest.raises(CheckpointError, match="cannot build the VAE that the file's config describes.*row LTX-2 VAE"):
        load(vae_folder / "ltx.safetensors")


def test_spaces_of_the_hosts_own_vaes_are_told_by_class():
    import comfy.sd
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.wan.vae import WanVAE
    from comfy.ldm.wan.vae2_2 import WanVAE as Wan22

    def vae(network, channels, ratios):
        shell = comfy.sd.VAE(sd={})
        shell.first_stage_model, shell.latent_channels = network, channels
        shell.upscale_ratio = shell.downscale_ratio = ratios
        return shell

    def ratios(time, space):
        return (lambda frames: frames * time, space, space)

    def made(network, **attributes):
        it = network.__new__(network)
        torch.nn.Module.__init__(it)
        for name, value in attributes.items():
            setattr(it, name, value)
        return it

    def of_ltx(width, timed):
        return made(VideoVAE, timestep_conditioning=timed, encoder=_Encoder(width))

    cases = [
        (made(WanVAE), 16, ratios(4, 8), "wan21"), (made(Wan22), 48, ratios(4, 16), None),
        (made(WanVAE), 48, ratios(4, 8), None), (of_ltx(2048, False), 128, ratios(8, 32), "ltx2"),
        (of_ltx(2048, True), 128, ratios(8, 32), None), (of_ltx(512, False), 128, ratios(8, 32), None),
        (made(AutoencoderKL), 4, 8, "svd"), (made(AutoencoderKL), 16, 8, None), (None, 4, 8, None),
    ]  # fmt: skip
    for network, channels, ratio, kind in cases:
        space = recognise.space_of_vae(vae(network, channels, ratio))
        assert (space.kind if space else None) == kind, (network, channels)


class _Encoder(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv_out = torch.nn.Module()
        self.conv_out.conv = torch.nn.Conv3d(width, 129, 1, device="meta")


def test_published_dcae_has_the_weights_of_the_table(oracle):
    from comfy.ldm.ace.vae.autoencoder_dc import AutoencoderDC

    with torch.device("meta"):
        network = AutoencoderDC(**dcae_network(None, "x"), scaling_factor=1.0)
    shapes = public.network_shapes(network)
    need = json.loads((oracle("dcae") / "public_shapes.json").read_text())
    assert {name: list(shape) for name, shape in shapes.items()} == need and len(need) == 375
    assert round(sum(weight.numel() for weight in network.state_dict().values()) / 1e6, 1) == 312.3


@pytest.mark.parametrize("late", [True] if hasattr(memory_management, "aimdo_enabled") else [False])
def test_layers_are_counted_and_filled_also_where_the_host_fills_them_late(oracle, truth, monkeypatch, late):
    with monkeypatch.context() as patch, torch.inference_mode(False):
        if late:  # older hosts make every weight at once
            patch.setattr(memory_management, "aimdo_enabled", True)
        vae = framewise.dcae_vae(open_vae(oracle("dcae") / "conv"), torch.float32)
    assert not any(weight.is_meta for weight in vae.first_stage_model.state_dict().values())
    assert apart(vae.decode(truth["latents"][:1].movedim(2, 1))[0], shown(truth["decoded"][0])) <= 1e-5


def test_text_under_the_node_says_which_vae_and_what_it_holds(ours, oracle, load):
    vae = load(oracle("dcae") / "conv")
    text = ours["LoadVAE"].execute("conv").ui.as_dict()["text"][0]
    assert text.splitlines()[:3] == [
        "DC-AE f32c32: 32 channels, cells of 32 px",
        "for SANA image models, and the video models inflated from them",
        "holds sides that divide by 32, any number of frames",
    ]
    count = sum(weight.numel() for weight in vae.first_stage_model.parameters())
    assert text.splitlines()[3] == f"{count / 1e6:.1f} million weights in float32"


def test_whole_diffusers_folder_among_the_networks_serves_its_vae(ours, oracle, models_folder, truth):
    whole = models_folder / "Sana_tiny_diffusers"
    shutil.copytree(oracle("dcae") / "conv", whole / "vae")
    (whole / "model_index.json").write_text("{}")
    try:
        options = ours["LoadVAE"].GET_SCHEMA().inputs[0].options
        assert whole.name in options
        vae = ours["LoadVAE"].execute(whole.name, "fp32").args[0]
        assert apart(vae.decode(truth["latents"][:1].movedim(2, 1))[0], shown(truth["decoded"][0])) <= 1e-5
        seen = ours["LoadVAE"].fingerprint_inputs(whole.name)
        (whole / "vae" / "config.json").write_text((whole / "vae" / "config.json").read_text() + " ")
        assert ours["LoadVAE"].fingerprint_inputs(whole.name) != seen
    finally:
        shutil.rmtree(whole)


def test_missing_extra_misshapen_and_broken_weights_are_refused_with_the_row(load, oracle, vae_folder):
    folder = vae_folder / "broken"
    shutil.copytree(oracle("dcae") / "conv", folder)
    state = load_file(folder / WEIGHTS)
    first = next(name for name in state if name.endswith("to_q.weight"))
    wrong = {first: torch.zeros(3, 3), "surplus": torch.zeros(1)}
    for change, words in (({first: None}, "1 weights missing"), (wrong, "of another shape"), (wrong, "not known")):
        weights = {name: value for name, value in (state | change).items() if value is not None}
        save_file(weights, folder / WEIGHTS)
        with pytest.raises(CheckpointError, match=words + ".*docs/models.md, DC-AE"):
            load(folder)
    save_file(state | {first: torch.full_like(state[first], float("nan"))}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="docs/models.md, DC-AE"):
        load(folder)


def test_names_that_are_not_listed_and_types_that_are_not_offered_are_refused(ours, oracle, load):
    with pytest.raises(CheckpointError, match="is not in models/vae.*docs/models.md"):
        ours["LoadVAE"].execute("../../secret.safetensors")
    with pytest.raises(ConfigError, match="weight_dtype is 'fp16'; it must be one of: default, bf16, fp32"):
        load(oracle("dcae") / "conv", weight_dtype="fp16")


def test_older_hosts_refuse_a_wan_vae_of_another_width(tmp_path):
    import inspect

    from comfy.ldm.wan.vae import WanVAE

    shapes = {"decoder.middle.0.residual.0.gamma": 8, "conv2.weight": 16, "decoder.head.0.gamma": 8}
    path = tmp_path / "small.safetensors"
    save_file({name: torch.zeros(size, 1, 1, 1) for name, size in shapes.items()}, path)
    if "conv_out_channels" in inspect.signature(WanVAE.__init__).parameters:
        with pytest.raises(CheckpointError, match="weights missing.*docs/models.md, Wan 2.1 VAE"):
            public.load_video_vae(path)
    else:
        with pytest.raises(CheckpointError, match="a Wan VAE of width 8; this ComfyUI knows width 96 only"):
            public.load_video_vae(path)


def test_photo_to_latent_and_back_through_image_to_video(ours, dcae, core):
    photo = tiny.randn(1, 64, 96, 3).sigmoid()
    *_, latent, vae, _ = ours["ImageToVideo"].execute([], [], dcae, photo, 5).args
    assert latent["samples"].shape == (1, 32, 5, 2, 3)
    assert torch.equal(latent["samples"][:, :, :1], dcae.encode(photo))
    assert core("VAEDecode", vae=vae, samples=latent)[0].shape == (5, 64, 96, 3)
    with pytest.raises(ShapeError, match="start_image is 100x64 px; .*96x64 or 128x64 .*row DC-AE"):
        ours["ImageToVideo"].execute([], [], dcae, torch.zeros(1, 64, 100, 3), 5)


def test_weights_are_saved_under_the_names_they_are_loaded_by(dcae, oracle):
    state = load_file(oracle("dcae") / "conv" / WEIGHTS)
    saved = dcae.get_sd()
    assert saved.keys() == state.keys() and all(torch.equal(saved[name], state[name]) for name in state)


def test_training_encodes_with_dcae_and_refuses_the_vae_of_another_space(dcae, truth, load, oracle):
    config = replace(tiny.tiny_spec().config, in_channels=32, patch_size=1)
    spec = LinearVideoSpec(config=config, latent=LatentSpec())
    encoders = host_encoders(dcae, None, spec, {})
    latents = encoders.encode_frames(truth["pixels"][:1].movedim(2, 1))
    assert latents.shape == (1, 32, 3, 2, 3) and apart(latents[0].movedim(1, 0), truth["latents"][0]) <= 1e-5
    assert encoders.encode_frames(truth["pixels"][:1, :1].movedim(2, 1)).shape == (1, 32, 1, 2, 3)
    dcae.latent_channels = 16
    dcae.latent_space = SPACES["wan21"]
    with pytest.raises(ShapeError, match="as Wan 2.1 VAE does; .*DC-AE f32c32.; .*docs/models.md, row DC-AE"):
        check_vae(dcae, spec)


def test_latents_are_scaled_by_channel_as_the_hosts_own_format_scales_them():
    from comfy import latent_formats
    from pack.motion.models.latent_spaces import SPACES

    latents = torch.randn(2, 16, 3, 2, 2)
    host, ours_ = latent_formats.Wan21(), SPACES["wan21"]
    torch.testing.assert_close(ours_.scaled(latents), host.process_in(latents))
    torch.testing.assert_close(ours_.unscaled(latents), host.process_out(latents))
