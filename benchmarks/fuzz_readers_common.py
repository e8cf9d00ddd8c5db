"""Every reader of foreign files and texts as one row of a table: whole files to spoil, and what is called with them."""

import dataclasses
import hashlib
import io
import json
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import fuzz_mutations_common as ways
import numpy as np
from builtin_common import ROOT  # mounts the pack
from pack.motion.adapters.lora import LoRA
from pack.motion.data.sources.captions import read_captions
from pack.motion.data.sources.folder import open_clip_folder
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.io.checkpoints.torch_checkpoint import open_checkpoint
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.io.files.names import check_output_name
from pack.motion.io.files.safetensors import read_safetensors
from pack.motion.io.files.weight_folder import open_weights
from pack.motion.io.media.video import read_photo, write_video
from pack.motion.io.networks.file_motions import file_motions
from pack.motion.io.networks.linear_video import read_linear_video, save_linear_video
from pack.motion.io.networks.video_model import open_video_model
from pack.motion.io.networks.wan import open_wan
from pack.motion.io.pose_files import read_pose_file, write_pose_file
from pack.motion.io.text_encoders.gemma import open_gemma
from pack.motion.io.text_encoders.prompts_file import SavedPrompt, open_prompts, write_prompts
from pack.motion.io.training.latent_cache import LatentCache
from pack.motion.io.training.states import newest_state, read_state, save_state
from pack.motion.io.vaes.recognise import open_vae
from pack.motion.models.linear_video.network import LinearVideoDiT, LinearVideoDiTConfig
from pack.motion.models.model_spec import LinearVideoSpec
from pack.motion.pose.keypoints import NUM_POINTS, Poses
from pack.motion.text.vocabulary import MotionVocabulary
from pack.motion.training.job import read_job

sys.path.append(str(ROOT / "tests" / "helpers"))
import tiny_gemma  # noqa: E402
import torch  # noqa: E402
import wan_files  # noqa: E402

KEY = "ab" * 16
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
PHOTOS = {"png": {}, "jpg": {"exif": TURNED}, "webp": {}, "gif": {}, "bmp": {}, "tiff": {"compression": "tiff_lzw"},
          "ppm": {}}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reader:
    """make(folder): writes whole files. names: those of them to spoil, in turn. call(folder, path): reads.

    mend: a further way to spoil one, which keeps what would else refuse it at once: lengths, sums.
    """

    make: Callable[[Path], None]
    names: tuple[str, ...]
    call: Callable[[Path, Path], object]
    mend: Callable[[bytes, random.Random], bytes] | None = None

    def spoil(self, whole: dict[str, bytes], name: str, chance: random.Random) -> bytes:
        """The file of this name, spoiled as the chance says."""
        data = whole[name]
        if self.mend is not None and chance.random() < 0.5:
            return self.mend(data, chance)
        return ways.spoiled(data, whole[chance.choice(self.names)], chance)


def _photo(suffix: str, options: dict, mode: str = "RGB") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from PIL import Image

        values = torch.arange(24 * 32 * 3).reshape(24, 32, 3).mul(7).remainder(251).to(torch.uint8).numpy()
        picture = Image.fromarray(values).convert(mode)
        picture.save(folder / f"a.{suffix}", **options)

    return make


def _png(data: bytes, chance: random.Random) -> bytes:
    return ways.with_right_sums(ways.spoiled(data, data, chance))


def _clips(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        frames = torch.linspace(0, 1, 12).reshape(12, 1, 1, 1).expand(12, 32, 48, 3).contiguous()
        if suffix in ("mp4", "gif"):
            write_video(folder / f"a.{suffix}", frames, 8)
        else:
            _encode(folder / f"a.{suffix}", frames)

    return make


def _encode(path: Path, frames: torch.Tensor) -> None:
    """Frames in a container that `write_video` does not write."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames.mul(255).to(torch.uint8).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _read_clips(folder: Path, path: Path):
    found = open_clip_folder(folder, fps=8, default_caption="still")
    return found.clips[0].frames(range(min(4, found.clips[0].num_frames)))


def _tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layer.{index}.weight": torch.randn(3, 4, generator=generator) for index in range(4)}


def _net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))


def _plain(folder: Path) -> None:
    write_safetensors(folder / "a.safetensors", _tensors(), {"a": "b"})


def _lora(folder: Path) -> None:
    save_adapter(folder / "a.safetensors", LoRA(_net(), targets=("0", "1"), rank=2, alpha=2.0), {"note": "[1]"})


def _peft(folder: Path) -> None:
    values = {"r": 2, "lora_alpha": 8, "use_rslora": True, "alpha_pattern": {"1": 3.0}}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    tensors = {f"base_model.model.{layer}.lora_{part}.weight": torch.ones(shape)
               for layer in "01" for part, shape in (("A", (2, 4)), ("B", (4, 2)))}  # fmt: skip
    write_safetensors(folder / "adapter_model.safetensors", tensors)


def _model(folder: Path) -> None:
    config = LinearVideoDiTConfig(num_layers=1, num_attention_heads=1, num_cross_attention_heads=2, caption_channels=6)
    spec = dataclasses.replace(LinearVideoSpec(), config=config)
    metadata = {"motions": json.dumps(["pan left", "rain"]), "training": json.dumps({"rank": 2})}
    save_linear_video(folder / "a.safetensors", spec, LinearVideoDiT(config).state_dict(), extra_metadata=metadata)


def _read_model(folder: Path, path: Path):
    return file_motions(read_linear_video(path).metadata), open_video_model(path).read()


def _wan(folder: Path) -> None:
    state = wan_files.tiny_wan_state(dtype=torch.bfloat16)
    state = {name: value for name, value in state.items() if "blocks.1." not in name}
    tensors, _, _ = wan_files.scaled(state, "newer")
    layers = {name.removesuffix(".weight_scale"): {"format": "float8_e4m3fn"}
              for name in tensors if name.endswith("_scale")}  # fmt: skip
    said = {"_quantization_metadata": json.dumps({"layers": layers}), "expert": "low_noise"}
    write_safetensors(folder / "a.safetensors", tensors, said)
    config = wan_files.diffusers_config(wan_files.T2V) | {"num_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))


def _encoded_prompts(folder: Path) -> None:
    made = {text: SavedPrompt.of(torch.ones(n + 1, 4), torch.ones(n + 1), torch.ones(4))
            for n, text in enumerate(("", "a cat", "größer"))}  # fmt: skip
    write_prompts(folder / "a.safetensors", made, "umt5xxl")


def _read_encoded_prompts(folder: Path, path: Path):
    file = open_prompts(path)
    return file.describe(), [prompt.full_context for prompt in file.read(file.texts).values()]


def _read_wan(folder: Path, path: Path):
    opened = open_wan(folder / "a.safetensors")
    return opened.describe(), opened.state_dict()


def _vae(folder: Path) -> None:
    from pack.motion.io.vaes.dcae import CLASS_NAME, FIXED, SANA

    name = "encoder.down_blocks.3.0.attn.to_qkv_multiscale.0.proj_in.weight"
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", {name: torch.zeros(2, 1, 5, 5)})
    (folder / "config.json").write_text(json.dumps({"_class_name": CLASS_NAME, **SANA, **FIXED}))


def _shards(folder: Path) -> None:
    where = {}
    for number in (1, 2):
        tensors = {f"part{number}.{name}": value for name, value in _tensors(number).items()}
        write_safetensors(folder / f"model-0000{number}-of-00002.safetensors", tensors)
        where |= dict.fromkeys(tensors, f"model-0000{number}-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps({"_class_name": "X", "sizes": [1, 2, 3]}))


def _state(folder: Path) -> None:
    record = {"config": {"seed": 0, "learning_rate": 1e-4}, "task": {"data": {"clips": [{"name": "a.mp4"}]}}}
    for step in (1, 2):
        save_state(folder, step, {"weights": _tensors(step), "log": {"loss": torch.ones(step).double()}}, record)
    for file in (folder / "state-00000002").iterdir():  # the spoiled one lies flat, for `names`
        file.rename(folder / file.name)
    (folder / "state-00000002").rmdir()


def _read_state(folder: Path, path: Path):
    return newest_state(folder), read_state(folder)


def _record(data: bytes, chance: random.Random) -> bytes:
    """A record of other values that carries its right sum."""
    if not data.startswith(b"{"):
        return ways.spoiled_header(data, chance)
    record = json.loads(ways.spoiled_json(data, chance))
    record.pop("sha256", None)
    text = json.dumps(record, sort_keys=True)
    return json.dumps(record | {"sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


def _cache(folder: Path) -> None:
    with LatentCache(folder) as cache:
        cache.put(KEY, _tensors(), {"bucket": "3"})


def _read_cache(folder: Path, path: Path):
    with LatentCache(folder) as cache:
        return cache.get(KEY)


def _captions(folder: Path) -> None:
    lines = [{"file": f"{name}.mp4", "caption": "pan left, größer"} for name in "abc"]
    (folder / "captions.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    (folder / "a.txt").write_text("zoom in – slowly")


def _poses(folder: Path) -> None:
    points = np.random.default_rng(0).uniform(1, 63, (3, 2, NUM_POINTS, 3))
    points[..., 2] = 1.0
    write_pose_file(folder / "a.json", Poses(points, 64, 64))


def _job(folder: Path) -> None:
    text = (ROOT / "docs" / "training" / "pan_left.yaml").read_text()
    (folder / "a.yaml").write_text(text)
    values = {"output": "a.safetensors", "generate": {"num_clips": 2, "motions": ["pan left"], "size": 64, "fps": 8},
              "training": {"num_steps": 3, "targets": ["ff"], "shift": None}, "windows": {"num_frames": 3}}  # fmt: skip
    (folder / "a.json").write_text(json.dumps(values))


def _checkpoint(folder: Path) -> None:
    content = {"state_dict": _tensors(), "step": 3, "key": b"\1\xff", "kind": torch.float16, "lr": [0.1, (1, 2)]}
    torch.save(content, folder / "a.pth")


def _pickled(data: bytes, chance: random.Random) -> bytes:
    """The archive laid out anew around a spoiled pickle, sums put right."""
    stored = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stored, "w") as new:
            for entry in old.infolist():
                content = old.read(entry)
                if entry.filename.endswith("data.pkl"):
                    content = ways.spoiled(content, content, chance)
                new.writestr(entry.filename, content)
    except (zipfile.BadZipFile, zlib.error, struct.error):
        return data
    return stored.getvalue()


def _prompt(folder: Path) -> None:
    (folder / "a.txt").write_text("the camera pans left (slowly:1.2), zoom in; clip_01.mp4")


def _read_prompt(folder: Path, path: Path):
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    problems = []
    for read in (MotionVocabulary().tokenize, check_output_name, lambda words: file_motions({"motions": words})):
        try:
            read(text)
        except ValueError as error:
            problems.append(error)
    for error in problems:
        if type(error) not in ERRORS:
            raise error


def _errors() -> tuple[type, ...]:
    from pack.motion.errors import CheckpointError, ConfigError, ShapeError

    return CheckpointError, ConfigError, ShapeError


def _by_kind(data: bytes, chance: random.Random) -> bytes:
    """JSON and safetensors with other values; what is neither, spoiled once more."""
    if data[:1] == b"{":
        return ways.spoiled_json(data, chance)
    return ways.spoiled_header(data, chance) if data[8:9] == b"{" else ways.spoiled(data, data, chance)


def _photo_reader(suffix: str, options: dict, mode: str = "RGB") -> Reader:
    mend = _png if suffix == "png" else None
    return Reader(_photo(suffix, options, mode), (f"a.{suffix}",), lambda folder, path: read_photo(path), mend)


ERRORS = _errors()
SINGLE, NETWORK = ("a.safetensors",), "diffusion_pytorch_model.safetensors"
READERS: dict[str, Reader] = {
    **{f"photo {suffix}": _photo_reader(suffix, options) for suffix, options in PHOTOS.items()},
    "photo png with palette": _photo_reader("png", {"transparency": 3}, "P"),
    "photo png 16 bit": _photo_reader("png", {}, "I;16"),
    **{f"clips {suffix}": Reader(_clips(suffix), (f"a.{suffix}",), _read_clips)
       for suffix in ("mp4", "mkv", "avi", "gif")},
    "safetensors": Reader(_plain, SINGLE, lambda folder, path: read_safetensors(path), _by_kind),
    "lora": Reader(_lora, SINGLE, lambda folder, path: load_adapter(path, _net()), _by_kind),
    "lora of peft": Reader(_peft, ("adapter_config.json", "adapter_model.safetensors"),
                           lambda folder, path: load_adapter(folder / "adapter_model.safetensors", _net()), _by_kind),
    "motion model": Reader(_model, SINGLE, _read_model, _by_kind),
    "wan": Reader(_wan, ("a.safetensors", "config.json", "a.safetensors"), _read_wan, _by_kind),
    "encoded prompts": Reader(_encoded_prompts, SINGLE, _read_encoded_prompts, _by_kind),
    "vae": Reader(_vae, ("config.json", NETWORK), lambda folder, path: open_vae(folder).read(), _by_kind),
    "weight folder": Reader(_shards, ("model.safetensors.index.json", "config.json"),
                            lambda folder, path: open_weights(folder).read(), _by_kind),
    "gemma": Reader(tiny_gemma.write_folder, ("config.json", "tokenizer.model", "config.json"),
                    lambda folder, path: open_gemma(folder), _by_kind),
    "training state": Reader(_state, ("state.json", "weights.safetensors", "state.json"), _read_state, _record),
    "latent cache": Reader(_cache, ("manifest.json", f"{KEY}.safetensors"), _read_cache, _by_kind),
    "captions": Reader(_captions, ("captions.jsonl", "a.txt"),
                       lambda folder, path: read_captions(folder, ["a.mp4", "b.mp4"])),
    "poses": Reader(_poses, ("a.json",), lambda folder, path: read_pose_file(path), _by_kind),
    "job": Reader(_job, ("a.yaml", "a.json"), lambda folder, path: read_job(path), _by_kind),
    "torch checkpoint": Reader(_checkpoint, ("a.pth",), lambda folder, path: open_checkpoint(path), _pickled),
    "prompts and names": Reader(_prompt, ("a.txt",), _read_prompt),
}  # fmt: skip
