"""Jobs for Wan: the network, its VAE and encoded prompts are files of their own, and an adapter is trained.

The small Wan models of the pack bring VAE and words along. A motion adapter stands in place of the prompt.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..adapters.base_sample import CHANNELS, wan_sample
from ..adapters.miva import MIVA, check_masked
from ..data.clips import ClipCollection
from ..data.encoders import Encoders, TextEntry, mask_cell, saved_texts, wan_encoders
from ..data.latent_dataset import LatentDataset, OnStep, build_latent_dataset
from ..data.windows import WindowConfig
from ..errors import ConfigError
from ..io.files.weight_folder import WeightSource
from ..io.networks.base_licence import licence_of
from ..io.networks.builtin_names import VAE
from ..io.networks.builtin_wan import WORDS, read_builtin_wan
from ..io.networks.frozen_wan import frozen_wan
from ..io.networks.wan import open_wan_weights
from ..io.text_encoders.prompts_file import open_prompts
from ..io.vaes.recognise import FOLDER as VAE_FOLDER
from ..io.vaes.small_vae import read_small_vae
from ..io.vaes.wan import open_wan_vae, read_wan_vae
from ..models.wan.architecture import WAN
from ..models.wan.experts import ALL_LEVELS, EXPERTS, may_be_expert, noise_range
from ..models.wan.network import WanDiT
from ..models.wan.spec import WanSpec
from ..text.scene_vocabulary import word_vectors
from .config import TrainingConfig
from .job_file import TrainingJob
from .tasks.adapter_task import AdapterTask, adapter_task, chosen_targets
from .trained_weights import write_trained
from .trainees.wan import WanTrainee

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ENCODER, ENCODER_TITLE = "umt5xxl", "UMT5-XXL"
LEFT_TO_MODEL = ("num_frames", "stride_min", "stride_max")  # of windows


class WanJob:
    """See `JobModel`. What files say by their headers, and settings, are refused at once; weights are read late.

    The VAE is in memory while clips are encoded, the network after that.
    """

    def __init__(self, job: TrainingJob, source: WeightSource, device: torch.device):
        self.job, self.device = job, device
        self.opened = open_wan_weights(source, expert=job.expert or "")
        self.small = read_builtin_wan(source.path) if WORDS in source.metadata else None
        self.spec = WanSpec(self.opened.layout.config) if self.small is None else self.small.spec
        self._check_settings()
        if self.small is None:
            self.vae = self._vae_path()
            open_wan_vae(self.vae)
        self.prompts = None if self.small is not None or job.prompts is None else self._open_prompts()
        self.windows = self._windows()
        self.fps = job.fps if job.says("fps") else 0.0
        self.config, levels = self._config()
        self.dtype = self._dtype()
        self.notes = (f"base: {self.opened.describe().splitlines()[0]}, computed in {_name(self.dtype)}", *levels)
        expert = self.opened.layout.expert
        self.metadata = {"base_model": source.path.name, **({"expert": expert} if expert else {})}

    def check_clips(self, clips: ClipCollection) -> None:
        """See `JobModel`."""
        captions = {clip.caption: clip.name for clip in reversed(clips.clips)}
        if self.config.adapter.masked:
            clips.check_masks()
        if self.prompts is not None:
            self.prompts.check_holds(captions)
        for caption in captions if self.small is not None else ():
            self.small.vocabulary.tokenize(caption)

    def encoders(self, clips: ClipCollection) -> Encoders:
        """What encodes these clips and their captions, from the CPU to the CPU; the VAE is in memory with it."""
        encode_text, made_of = self._texts(clips)
        vae = read_wan_vae(self.vae, device=self.device) if self.small is None else read_small_vae(VAE).to(self.device)
        encoders = wan_encoders(vae, encode_text, made_of, with_start=self.spec.config.concat_channels > 0)
        encode, beside = encoders.encode_frames, encoders.encode_beside
        return replace(
            encoders, encode_frames=lambda video: encode(video.to(self.device)),
            encode_beside=beside and (lambda video: beside(video.to(self.device))),
            mask_cell=mask_cell(self.spec) if self.config.adapter.masked else 0,
        )  # fmt: skip

    def dataset(self, clips: ClipCollection, on_step: OnStep) -> LatentDataset:
        """See `JobModel`."""
        return build_latent_dataset(
            clips, self.spec, self.encoders(clips), self.windows, cache_folder=self.job.latents, on_step=on_step
        )

    def trainee(self) -> WanTrainee:
        """The network, its weights frozen, ready to be trained beside."""
        loop = self.config.loop
        network = frozen_wan(self.opened, dtype=self.dtype, device=self.device, blocks_on_cpu=loop.blocks_on_cpu)
        return WanTrainee(
            network, self.spec, checkpointing=loop.gradient_checkpointing, blocks_on_cpu=loop.blocks_on_cpu
        )

    def task(self, dataset: LatentDataset) -> AdapterTask:
        """See `JobModel`."""
        return adapter_task(self.trainee(), dataset, self.config)

    def write(self, task: AdapterTask, metadata: dict[str, str]) -> None:
        """See `JobModel`."""
        told = {**metadata, **self.about_base(task.trainee)}
        write_trained(self.job.output, task, told, precision=self.config.adapter.file_precision)

    def licence(self) -> dict[str, str]:
        """Metadata that names the licence of the base."""
        return licence_of(self.opened.source.metadata, is_wan=True, is_ours=self.small is not None)

    def about_base(self, trainee: WanTrainee) -> dict[str, str]:
        """What an adapter's file says of the network it was trained beside."""
        network, sizes = trainee.module, self.spec.config
        channels = {CHANNELS: str(sizes.in_channels + sizes.concat_channels)}
        return channels | wan_sample(len(network.blocks), network.get_parameter).to_metadata()

    def _check_settings(self) -> None:
        job, config = self.job, self.job.training
        if config.adapter.mode != "lora":
            raise ConfigError(f"mode is {config.adapter.mode!r}; beside Wan adapters are trained: set mode to lora")
        if config.loop.sample_every:
            raise ConfigError(
                f"sample_every is {config.loop.sample_every}; no samples are drawn while Wan is trained here: set it "
                "to 0, and try the adapter out in ComfyUI"
            )
        blocks, away = self.spec.config.num_layers, config.loop.blocks_on_cpu
        if away > blocks:
            raise ConfigError(f"blocks_on_cpu is {away}; this model has {blocks} blocks, so 0 to {blocks} is needed")
        if config.adapter.masked:
            check_masked(self.spec.config)
        if not self._is_motion:
            chosen_targets(config.adapter.targets, WanDiT(self.spec.config, device="meta"), WAN.training.targets)
        if self.spec.config.image_tokens:
            raise ConfigError(
                f"{self.opened.source.path} is Wan {self.opened.layout.variant}, which reads CLIP vision tokens of the "
                "start image; the shell cannot make them: take a text-to-video model, or an image-to-video model of "
                "Wan 2.2 A14B, which needs none"
            )
        if self.small is None and self.spec.config.concat_channels and not self.opened.layout.expert:
            raise ConfigError(
                f"{self.opened.source.path} is one of the two networks of an A14B image-to-video model; its name does "
                f"not say which: add expert: {' or expert: '.join(EXPERTS)} to the job"
            )
        if job.dtype not in (None, *DTYPES):
            raise ConfigError(f"dtype is {job.dtype!r}; {' or '.join(DTYPES)} is needed; leave it out for the file's")
        own = () if self.small is None else ("vae", "prompts")
        if given := [name for name in own if getattr(job, name) is not None]:
            raise ConfigError(f"{', '.join(given)}: {job.model} brings its own VAE and words; leave these out")
        if self.small is None and job.prompts is None and not self._is_motion:
            raise ConfigError(
                "prompts is missing; Wan's text encoder runs in ComfyUI only: name the file that its node Save Prompts "
                "wrote of the captions of these clips"
            )

    @property
    def _is_motion(self) -> bool:
        """Whether a motion adapter is trained, which stands in place of the prompt."""
        return self.job.training.adapter.adapter == MIVA.kind

    def _texts(self, clips: ClipCollection) -> tuple[Callable[[str], TextEntry], str]:
        """What encodes a caption, and a fingerprint of it."""
        width = self.spec.config.caption_channels
        if self.small is not None:
            words = self.small.vocabulary
            vectors = word_vectors(words.size, width)
            return lambda caption: TextEntry(vectors[words.tokenize(caption)]), f"words {words.size}"
        if self.prompts is None:  # nothing reads it
            return lambda caption: TextEntry(torch.zeros(1, width)), "no prompts"
        return saved_texts(self.prompts, [clip.caption for clip in clips.clips])

    def _vae_path(self) -> Path:
        """The VAE that the job names, or the one inside a whole diffusers folder."""
        if self.job.vae is not None:
            return Path(self.job.vae)
        if (Path(self.job.model) / VAE_FOLDER).is_dir():
            return Path(self.job.model)
        raise ConfigError(
            "vae is missing; name the file or folder of the Wan 2.1 VAE (docs/models.md, row Wan 2.1 VAE), or give a "
            "whole diffusers folder as model"
        )

    def _open_prompts(self):
        prompts = open_prompts(self.job.prompts)
        prompts.check_encoder(self.spec.config.caption_channels, ENCODER, ENCODER_TITLE)
        return prompts

    def _windows(self) -> WindowConfig:
        """The job's, and the model's own numbers for what it does not say."""
        windows, space = self.job.windows, self.spec.space
        if self.job.says("windows.num_frames") and windows.num_frames:
            space.latent_frames(windows.num_frames)
        space.check_size(windows.resolution, windows.resolution, "windows.resolution")
        return replace(windows, **{name: 0 for name in LEFT_TO_MODEL if not self.job.says(f"windows.{name}")})

    def _config(self) -> tuple[TrainingConfig, tuple[str, ...]]:
        """The job's settings, and for one of two experts the noise levels that it sees, unless they say others."""
        config, expert = self.job.training, self.opened.layout.expert
        asked = (config.objective.sigma_min, config.objective.sigma_max)
        low, high = noise_range(self.spec.config, expert)
        if asked == (low, high) and not expert and may_be_expert(self.spec.config):
            return config, (f"{ALL_LEVELS}add expert: {' or expert: '.join(EXPERTS)} to the job",)
        if asked != (0.0, 1.0) or (low, high) == asked:
            return config, ()
        note = f"noise levels {low:g} to {high:g}: those of the {expert.replace('_', '-')} expert"
        return config.changed(sigma_min=low, sigma_max=high), (note,)

    def _dtype(self) -> torch.dtype:
        """What the base computes in: as asked, else float32 for a float32 file and bfloat16 for all others."""
        if self.job.dtype is not None:
            return DTYPES[self.job.dtype]
        stored = self.opened.dtypes["blocks.0.self_attn.q.weight"]
        return torch.float32 if stored == torch.float32 else torch.bfloat16


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
