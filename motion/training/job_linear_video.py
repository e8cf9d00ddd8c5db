"""Jobs for the built-in models and for files of their kind, which hold their own text encoder and need no VAE."""

from pathlib import Path

from ..adapters.miva import check_masked
from ..builtin_model import bundle
from ..data.clips import ClipCollection
from ..data.encoders import Encoders
from ..data.latent_dataset import LatentDataset, OnStep, build_latent_dataset, builtin_encoders
from ..errors import ConfigError
from ..io.files.atomic import make_folder
from ..io.networks.base_licence import licence_of
from ..io.networks.builtin_names import BUILTIN_NAMES, builtin_path
from ..io.networks.linear_video import read_linear_video
from ..models.model_spec import LinearVideoSpec
from .job_file import TrainingJob
from .tasks.adapter_task import AdapterTask, adapter_task
from .trained_weights import write_trained
from .trainees.linear_video import LinearVideoTrainee

NOT_HERE = ("vae", "prompts", "expert", "dtype")  # of a job: for models that do not hold all they need


class LinearVideoJob:
    """See `JobModel`."""

    def __init__(self, job: TrainingJob, device):
        self.job, self.config, self.device, self.notes = job, job.training, device, ()
        self.file = read_linear_video(builtin_path(job.model) if job.model in BUILTIN_NAMES else job.model)
        if self.config.adapter.masked:
            check_masked(self.file.spec.config)
        given = [name for name in NOT_HERE if getattr(job, name) is not None]
        if given:
            raise ConfigError(
                f"{', '.join(given)}: {job.model} holds its own VAE and text encoder and is trained in float32; leave "
                "these out, or name a Wan model"
            )
        self.model = bundle(self.file, device=device, kernels=job.kernels)
        self.fps, self.metadata = job.fps, {"base_model": Path(job.model).name}

    @property
    def spec(self) -> LinearVideoSpec:
        """What is known of it beside the weights."""
        return self.model.spec

    def encoders(self, clips: ClipCollection) -> Encoders:
        """What encodes clips and their captions, from the CPU to the CPU."""
        return builtin_encoders(self.model)

    def licence(self) -> dict[str, str]:
        """Metadata that names the licence of the base."""
        return licence_of(self.file.metadata, is_ours=self.job.model in BUILTIN_NAMES)

    def about_base(self, trainee: LinearVideoTrainee) -> dict[str, str]:
        """See `WanJob`; nothing more is said of these."""
        return {}

    def check_clips(self, clips: ClipCollection) -> None:
        """See `JobModel`. A caption that cannot be read is refused when it is encoded, which is soon."""

    def dataset(self, clips: ClipCollection, on_step: OnStep) -> LatentDataset:
        """See `JobModel`."""
        return build_latent_dataset(
            clips, self.model.spec, builtin_encoders(self.model), self.job.windows, cache_folder=self.job.latents,
            on_step=on_step,
        )  # fmt: skip

    def trainee(self) -> LinearVideoTrainee:
        """The network, ready to be trained or trained beside."""
        loop = self.config.loop
        return LinearVideoTrainee(
            self.model.dit, self.model.spec, checkpointing=loop.gradient_checkpointing, blocks_on_cpu=loop.blocks_on_cpu
        )

    def task(self, dataset: LatentDataset) -> AdapterTask:
        """See `JobModel`."""
        return adapter_task(self.trainee(), dataset, self.config)

    def write(self, task: AdapterTask, metadata: dict[str, str]) -> None:
        """See `JobModel`. A model goes with the text encoder and the words it came with."""
        own = self.file.spec.to_metadata()
        of_model = {name: text for name, text in self.file.metadata.items() if name not in own}
        write_trained(self.job.output, task, metadata, precision=self.config.adapter.file_precision,
                      text_encoder=self.file.text_encoder, of_model=of_model)  # fmt: skip

    def draw(self, clips: ClipCollection, step: int) -> Path:
        """See `JobModel`: a video of the first clip's first frame."""
        from ..io.media.video import write_video
        from ..pipeline import animate_frames

        clip, folder = clips.clips[0], make_folder(Path(self.job.output).with_suffix(".samples"))
        seed = self.config.loop.seed
        video = animate_frames(clip.frames([0])[0], motion=clip.caption, model=self.model, seed=seed)
        path = folder / f"step-{step:08d}.mp4"
        write_video(path, video, self.model.spec.sampling.fps, overwrite=True)
        return path
