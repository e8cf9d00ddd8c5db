"""One row an architecture: this file alone adds an imaginary one, and rows are held to their networks."""

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import pytest
import torch
from pack.kernels import self_test
from pack.motion.adapters.lora import LoRA, target_names
from pack.motion.data.windows import WindowConfig
from pack.motion.errors import CheckpointError, ConfigError
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.io.networks.video_model import OPENERS, open_video_model
from pack.motion.io.networks.video_model_file import OpenedVideoModel, VideoModelFile, describe
from pack.motion.models.architecture import AdapterPlaces, Architecture, TrainingDefaults
from pack.motion.models.architectures import ARCHITECTURES, ArchitectureTable
from pack.motion.models.block_adapters import BlockAdapters
from pack.motion.models.conditions import Conditions
from pack.motion.models.latent_spaces import SPACES
from pack.motion.models.linear_video.architecture import LINEAR_VIDEO
from pack.motion.models.linear_video.config import LinearVideoDiTConfig, NetworkConfig
from pack.motion.models.model_spec import LinearVideoSpec, ModelSpec, SamplingDefaults
from pack.motion.models.sana_video.architecture import SANA_VIDEO
from pack.motion.models.sana_video.config import SanaVideoConfig
from pack.motion.models.wan.architecture import WAN
from pack.motion.models.wan.config import WanConfig
from pack.motion.training.config import TrainingConfig
from pack.motion.training.job import TrainingJob
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

SCHEMAS = Path(__file__).resolve().parents[2] / "goldens" / "schemas.json"


# An architecture as it would stand in a room of its own: config, spec, network, memory, file and row.


@dataclass(frozen=True)
class ImaginaryConfig(NetworkConfig):
    in_channels: int = 16
    num_layers: int = 2
    num_attention_heads: int = 2
    attention_head_dim: int = 4
    caption_channels: int = 6
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class ImaginarySpec(ModelSpec):
    config: ImaginaryConfig = field(default_factory=ImaginaryConfig)
    sampling: SamplingDefaults = field(default_factory=lambda: SamplingDefaults(num_frames=17, fps=8.0))

    @property
    def space(self):
        return SPACES["wan21"]

    def to_metadata(self):
        return {"family": "imaginary", "spec": json.dumps(asdict(self))}

    @classmethod
    def from_metadata(cls, metadata):
        values = json.loads(metadata["spec"])
        config, sampling = ImaginaryConfig.from_dict(values["config"]), SamplingDefaults.from_dict(values["sampling"])
        return cls(config, sampling)


class ImaginaryNetwork(nn.Module):
    def __init__(self, config, *, kernels="auto", dtype=None, device=None):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(config.width, config.width, dtype=dtype, device=device)
                                    for _ in range(config.num_layers))  # fmt: skip

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


class ImaginaryMemory:
    """Four token tensors, whatever the backend."""

    def step_bytes(self, config, shape, *, itemsize=2, kernels="torch", fused_norms=False):
        b, _, t, h, w = shape
        return 4 * b * t * h * w * config.width * itemsize

    def factor(self, config, kernels="torch"):
        return 4.0 * config.width


@dataclass(frozen=True)
class OpenedImaginary(OpenedVideoModel):
    def _read(self, on_bytes):
        spec = IMAGINARY.read_spec(self.source.metadata)
        return VideoModelFile(IMAGINARY, spec, self.source.read(on_bytes), "an imaginary model")

    def describe(self):
        return "an imaginary model"


IMAGINARY = Architecture(
    name="imaginary", title="imaginary model", config=ImaginaryConfig, spec=ImaginarySpec,
    network=lambda: ImaginaryNetwork, operators=("token_rstd",), memory=ImaginaryMemory(),
    adapters=AdapterPlaces(blocks="layers", parts=("",)),
    training=TrainingDefaults(num_frames=17, stride_min=1, stride_max=2, fps=8.0, targets=("layers.1",)),
    read_spec=ImaginarySpec.from_metadata,
)  # fmt: skip
TABLE = ArchitectureTable((*ARCHITECTURES, IMAGINARY))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ImaginaryNetwork(ImaginaryConfig())


@pytest.fixture
def path(network, tmp_path):
    path, spec = tmp_path / "imaginary.safetensors", ImaginarySpec(ImaginaryConfig(caption_channels=8))
    save_file(network.state_dict(), path, spec.to_metadata())
    return path


def test_a_file_of_a_new_architecture_is_recognised_read_and_described(network, path):
    file = open_video_model(path, openers={**OPENERS, IMAGINARY.name: OpenedImaginary}, table=TABLE).read()
    assert file.architecture is IMAGINARY and file.spec == ImaginarySpec(ImaginaryConfig(caption_channels=8))
    built = file.architecture.network()(file.spec.config)
    built.load_state_dict(file.state_dict)
    x = torch.randn(3, 8)
    assert torch.equal(built(x), network(x))
    assert "2 blocks 8 wide" in describe(file) and "17 frames at 8 fps" in describe(file)
    assert "Wan 2.1 VAE" in describe(file) and "4k+1 frames" in describe(file)


def test_without_its_row_the_same_file_is_not_known(path):
    with pytest.raises(CheckpointError, match="not a model known here"):
        open_video_model(path, openers={**OPENERS, IMAGINARY.name: OpenedImaginary})


def test_the_other_architectures_do_not_notice_a_new_row(tmp_path):
    metadata = LinearVideoSpec().to_metadata()
    assert TABLE.in_metadata(metadata) is ARCHITECTURES.in_metadata(metadata) is LINEAR_VIDEO
    assert TABLE.of(LinearVideoSpec()) is LINEAR_VIDEO and TABLE.of(SanaVideoConfig()) is SANA_VIDEO
    assert TABLE.in_metadata({"family": "sana_video"}) is None  # its files hold no spec
    assert TABLE.in_metadata({}) is None


def test_memory_of_a_new_architecture_is_its_own():
    memory = TABLE.of(ImaginaryConfig()).memory
    assert memory.step_bytes(ImaginaryConfig(), (1, 16, 5, 4, 6), itemsize=4) == 4 * 5 * 4 * 6 * 8 * 4
    assert memory.factor(ImaginaryConfig()) == 32


def test_only_the_operators_of_the_architecture_are_tried(monkeypatch):
    tried = []
    monkeypatch.setattr(self_test, "triton_problem", lambda device: None)
    monkeypatch.setattr(self_test, "try_operator", lambda name, *where: tried.append(name))
    self_test.kernel_problem.cache_clear()
    operators = TABLE.of(ImaginarySpec()).operators
    assert self_test.resolve_kernels("auto", "cpu", torch.float32, operators) == "auto"
    self_test.kernel_problem.cache_clear()
    assert tried == ["token_rstd"]


def test_adapters_of_a_new_architecture_are_saved_under_its_names(network, tmp_path):
    row, path = TABLE.named("imaginary"), tmp_path / "lora.safetensors"
    lora = LoRA(network, targets=row.training.targets, rank=2, alpha=2.0)
    save_adapter(path, lora)
    with safe_open(path, "pt") as file:
        assert all(name.startswith(f"{row.adapters.prefix}{row.adapters.blocks}.1.") for name in file.keys())
    assert load_adapter(path, network).layers.keys() == {"layers.1"}
    row.check_adapters_inside()


def test_training_defaults_of_a_new_architecture_are_its_own():
    assert TABLE.of(ImaginarySpec()).training.num_frames == 17
    assert SPACES["wan21"].latent_frames(TABLE.of(ImaginarySpec()).training.num_frames) == 5


@pytest.mark.parametrize("part", ["name", "config", "spec"])
def test_two_rows_that_cannot_be_told_apart_are_refused(part):
    other = replace(IMAGINARY, name="other", config=int, spec=str)
    twin = replace(other, **{part: getattr(LINEAR_VIDEO, part)})
    assert len(ArchitectureTable((LINEAR_VIDEO, other)).rows) == 2
    with pytest.raises(ConfigError, match=f"two architectures have the {part}"):
        ArchitectureTable((LINEAR_VIDEO, twin))


def test_what_no_row_knows_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="'moon'; it must be one of linear_video_dit, sana_video"):
        ARCHITECTURES.named("moon")
    with pytest.raises(ConfigError, match="ImaginaryConfig describes no architecture known here.*SanaVideoSpec"):
        ARCHITECTURES.of(ImaginaryConfig())


# The rows there are, against the networks and the settings they speak of.

TINY = {
    LINEAR_VIDEO: LinearVideoDiTConfig(
        in_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
        caption_channels=6,
    ),
    SANA_VIDEO: SanaVideoConfig(
        in_channels=4, patch_size=1, num_layers=1, num_attention_heads=2, attention_head_dim=14,
        num_cross_attention_heads=2, caption_channels=6,
    ),
    WAN: WanConfig(
        in_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=12, hidden_width=32, caption_channels=6
    ),
}  # fmt: skip


def each_row():
    return pytest.mark.parametrize("row", list(ARCHITECTURES), ids=lambda row: row.name)


def weights_as_arguments(module, like):
    """Of norms too, as the host hands them out."""
    return nullcontext((module.weight, getattr(module, "bias", None)))


@each_row()
def test_a_row_names_exactly_the_operators_its_network_calls(row, monkeypatch):
    called = set()

    def noting(name, plain):
        def use_triton(*given):
            called.add(name)
            return plain(*given)

        return use_triton

    for name in self_test.OPERATORS:
        module = __import__(f"pack.kernels.{name}", fromlist=["use_triton"])
        monkeypatch.setattr(module, "use_triton", noting(name, module.use_triton))
    network = row.network()(TINY[row], weights_of=weights_as_arguments)
    with torch.no_grad():
        network(torch.randn(1, 4, 3, 4, 4), torch.tensor([500.0]), Conditions(torch.randn(1, 5, 6)))
    assert called == set(row.operators)


@each_row()
def test_a_row_names_the_blocks_and_parts_its_network_has(row):
    network = row.network()(TINY[row], device="meta")
    block = network.get_submodule(row.adapters.blocks)[0]
    assert all(target_names(block.get_submodule(part), ("",)) for part in row.adapters.parts)
    inside = {name.split(".")[0] for name in target_names(block, ("",))}
    assert inside == set(row.adapters.parts)
    for target in row.training.targets if row.training else ():
        assert target_names(network, (target,))


@each_row()
def test_config_spec_and_network_of_a_row_belong_together(row):
    assert type(row.spec().config) is row.config and issubclass(row.spec, ModelSpec)
    assert ARCHITECTURES.of(row.spec()) is ARCHITECTURES.of(row.config()) is ARCHITECTURES.named(row.name) is row
    assert row.spec().space.kind in SPACES


@each_row()
def test_a_row_refuses_adapters_inside_blocks_exactly_where_its_network_does(row):
    latents, timestep, conditions = torch.randn(1, 4, 3, 4, 4), torch.tensor([500.0]), Conditions(torch.randn(1, 5, 6))
    seen = []
    for ask in (
        row.check_adapters_inside,
        lambda: row.network()(TINY[row])(latents, timestep, conditions, adapters=BlockAdapters()),
    ):
        try:
            ask()
        except ConfigError as error:
            seen.append(str(error))
    assert seen == [] if not row.adapters.not_inside else seen[0] == seen[1]
    assert bool(row.adapters.not_inside) == (row is SANA_VIDEO)


def test_settings_that_name_nothing_train_linear_video_as_its_row_says():
    own, windows = LINEAR_VIDEO.training, WindowConfig()
    job = {item.name: item.default for item in fields(TrainingJob)}
    assert (own.num_frames, own.stride_min, own.stride_max) == (
        windows.num_frames, windows.stride_min, windows.stride_max
    )  # fmt: skip
    assert own.targets == TrainingConfig().adapter.targets and own.fps == job["fps"]


def test_widgets_of_the_training_node_start_at_what_the_row_says():
    node = json.loads(SCHEMAS.read_text())["MotionBlocksTrainMotionModel"]
    widgets = {entry["name"]: entry.get("default") for entry in node["inputs"]}
    own = LINEAR_VIDEO.training
    assert {name: widgets[name] for name in ("num_frames", "stride_min", "stride_max", "targets")} == {
        "num_frames": own.num_frames, "stride_min": own.stride_min, "stride_max": own.stride_max,
        "targets": ", ".join(own.targets),
    }  # fmt: skip
