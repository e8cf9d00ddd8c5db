"""What must not change while walls move: latents, a training and its resume, job files, exported weights, graphs.

`python tests/goldens/golden_values.py` writes `golden_values.json` and the state to resume from, TRITON_INTERPRET=1
before it the part of the interpreted kernels alone. Do so only when a change is meant. Numbers are held twice: as a
sha256 of their bits, which counts on the kind of machine they were made on, and as some of the values themselves,
which count everywhere. What the nodes promise stands in `schemas.json`: tests/nodes/inhost/test_inhost_goldens.py.
"""

import hashlib
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    import conftest  # noqa: F401  (mounts the pack)

import torch  # noqa: E402
from pack.motion.builtin_model import load_builtin  # noqa: E402
from pack.motion.io.files.atomic import write_json  # noqa: E402
from pack.motion.io.files.safetensors import read_header, read_safetensors  # noqa: E402
from pack.motion.io.networks.linear_video import read_linear_video, save_linear_video  # noqa: E402
from pack.motion.pipeline import animate_frames  # noqa: E402
from pack.motion.training.job import read_job, run_job  # noqa: E402

RECORD = HERE / "golden_values.json"
STATE = HERE / "state"
SHOWN = 24  # values kept of a tensor
PROMPTS = {"motionblocks-tiny": "zoom in", "motionblocks-small": "swing, rain"}
JOB = {
    "generate": {"num_clips": 2, "motions": ["pan left"], "num_frames": 3, "size": 64}, "device": "cpu",
    "windows": {"num_frames": 3, "stride_min": 1, "stride_max": 1, "windows_per_clip": 1}, "kernels": "torch",
    "training": {"num_steps": 4, "rank": 1, "alpha": 1.0, "learning_rate": 1e-3, "targets": ["attn1"],
                 "ema_decay": 0.9, "save_every": 2, "keep_states": 2},
}  # fmt: skip


def machine() -> str:
    """A fingerprint of what decides the last bits of a sum on a CPU: torch, its code path, the processor."""
    cpu = Path("/proc/cpuinfo")
    names = [line for line in cpu.read_text().splitlines() if line.startswith("model name")] if cpu.exists() else []
    told = (str(torch.__version__), torch.backends.cpu.get_cpu_capability(), *names[:1])
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def held(values: torch.Tensor) -> dict:
    """Bits and some values of a tensor, as plain JSON."""
    flat = values.detach().float().contiguous().flatten()
    step = max(1, flat.numel() // SHOWN)
    return {"shape": list(values.shape), "sha256": hashlib.sha256(flat.numpy().tobytes()).hexdigest(),
            "values": flat[::step][:SHOWN].tolist()}  # fmt: skip


def held_all(tensors: dict[str, torch.Tensor]) -> dict:
    """The same of several tensors as one, and their names."""
    names = sorted(tensors)
    return {"names": hashlib.sha256("\n".join(names).encode()).hexdigest(),
            **held(torch.cat([tensors[name].float().flatten() for name in names]))}  # fmt: skip


def sampled(name: str, *, edges: str | None) -> dict:
    """Latents of a short clip of a built-in model, and its last frame, on torch's own operators."""
    pixels = torch.rand(3, 48, 72, generator=torch.Generator().manual_seed(1))
    model = load_builtin(name, kernels="torch")
    video = animate_frames(pixels, motion=PROMPTS[name], num_frames=5, num_steps=3, seed=2, model=model, edges=edges)
    return {"latents": held(video.latents), "last frame": held(list(video)[-1])}


def one_call(name: str, kernels: str) -> dict:
    """What the network, cut down to its first block, answers to one small input with the operators of one backend."""
    model = load_builtin(name, kernels=kernels)
    model.dit.transformer_blocks = model.dit.transformer_blocks[:1]
    generator = torch.Generator().manual_seed(3)
    channels = model.spec.config.in_channels
    latents = torch.randn(1, channels, 3, 2, 2, generator=generator)
    with torch.no_grad():
        told = model.encode([PROMPTS[name]])
        told = replace(told, motion_bucket_id=torch.tensor([12]), first_latent=latents[:, :, :1])
        return held(model.dit(latents, torch.tensor([700.0]), told))


def written_job(folder: Path, **changes) -> Path:
    """The golden job as a file in a folder, its output beside it."""
    path = folder / "job.json"
    path.write_text(json.dumps({**JOB, "output": str(folder / "lora.safetensors"), **changes}))
    return path


def trained(job: Path) -> dict:
    """Losses and LoRA of a training job."""
    done = run_job(read_job(job))
    tensors, metadata = read_safetensors(done.path)
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    plain = {name: text for name, text in metadata.items() if name not in ("training_data", "versions")}
    return {"losses": list(done.training.losses), "lora": held_all(tensors), "shapes": shapes, "metadata": plain}


def exported(name: str, folder: Path) -> dict:
    """A built-in model's file as our own writer writes it again."""
    file = read_linear_video(ROOT / "weights" / f"{name}.safetensors")
    dit = load_builtin(name, kernels="torch").dit
    path = folder / f"{name}.safetensors"
    kept = {key: text for key, text in file.metadata.items() if key not in file.spec.to_metadata()}
    save_linear_video(path, file.spec, dit.state_dict(), file.text_encoder, kept)
    header = read_header(path)
    return {"header": hashlib.sha256(repr(header).encode()).hexdigest(),
            "file": hashlib.sha256(path.read_bytes()).hexdigest()}  # fmt: skip


def graphs() -> dict:
    """Every shipped API workflow: nodes, and a sha256 of everything in them."""
    found = {}
    for path in sorted((ROOT / "workflows" / "api").glob("*.json")):
        graph = json.loads(path.read_text(encoding="utf-8"))
        whole = hashlib.sha256(json.dumps(graph, sort_keys=True).encode()).hexdigest()
        found[path.stem] = {"nodes": sorted(node["class_type"] for node in graph.values()), "sha256": whole}
    return found


LATER = ("vae", "prompts", "expert", "dtype", "motion", "pose")  # keys of job files that are younger than 0.1


def jobs() -> dict:
    """Job files of 0.1 as they are understood."""
    read = {path.name: read_job(path) for path in sorted((HERE / "jobs").iterdir())}
    plain = {name: {**asdict(job), "training": job.training.to_dict()} for name, job in read.items()}
    for values in plain.values():  # what files of 0.1 cannot say is at its default
        assert {name: values.pop(name) for name in LATER} == dict.fromkeys(LATER), values
        del values["said"]
    return json.loads(json.dumps(plain))


def make(folder: Path) -> dict:
    """All golden values that need no interpreter; the state to resume from is made beside."""
    torch.set_num_threads(1)
    return {
        "sampled": {f"{name}, edges {edges}": sampled(name, edges=edges)
                    for name in PROMPTS for edges in (None, "crop")},
        "one call": {name: one_call(name, "torch") for name in PROMPTS},
        "training": trained(written_job(folder)), "exported": {name: exported(name, folder) for name in PROMPTS},
        "graphs": graphs(), "jobs": jobs(),
    }  # fmt: skip


def main() -> None:
    import shutil
    import tempfile

    before = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if os.environ.get("TRITON_INTERPRET") == "1":
        torch.set_num_threads(1)
        write_json(RECORD, {**before, "interpreted": {name: one_call(name, "triton") for name in PROMPTS}})
        return
    with tempfile.TemporaryDirectory() as place:
        values = make(Path(place))
        shutil.rmtree(STATE, ignore_errors=True)
        shutil.copytree(Path(place) / "lora.states" / "state-00000002", STATE / "state-00000002")
    write_json(RECORD, {**before, "machine": machine(), **values})


if __name__ == "__main__":
    main()
