"""MODELs ask the row of their architecture: one host config a row, and what a row says is what the host does."""

import dataclasses

import pytest
import tiny
import tiny_sana
import torch
from pack.kernels import self_test
from pack.motion.errors import ConfigError
from pack.motion.models.architectures import ARCHITECTURES
from pack.motion.models.linear_video.architecture import LINEAR_VIDEO
from pack.motion.models.sana_video.architecture import SANA_VIDEO
from pack.motion.models.step_memory import MixFFNMemory
from pack.motion.models.wan.architecture import WAN
from pack.nodes.measuring import _scale
from pack.nodes.models import base, load
from pack.nodes.training_run.request import read_request


@pytest.fixture(scope="module")
def models(ours, models_folder):
    """A MODEL of each architecture, by its name."""
    tiny.tiny_file(models_folder / "row.safetensors")
    names = {LINEAR_VIDEO: "row.safetensors", SANA_VIDEO: tiny_sana.folder_of(models_folder, "wan21")}
    return {row.name: ours["LoadModel"].execute(name, "fp32").args[0] for row, name in names.items()}


@pytest.mark.parametrize("row", [row for row in ARCHITECTURES if row is not WAN], ids=lambda row: row.name)
def test_every_row_has_a_host_config_with_its_network(models, row):
    config = load.HOST_CONFIGS[row.name]
    assert config.architecture is row and issubclass(config.model_class.network_class, row.network())
    model = models[row.name]
    assert base.architecture_of(model) is row and type(base.spec_of(model)) is row.spec
    assert type(model.model) is config.model_class


def test_wan_models_are_left_to_the_hosts_own_loaders():
    assert load.HOST_CONFIGS.keys() == {row.name for row in ARCHITECTURES} - {WAN.name}


def test_a_model_of_another_kind_has_no_architecture(models):
    class Other:
        spec = models["sana_video"].model.spec
        architecture = SANA_VIDEO

    class Patcher:
        model = Other()

    assert base.architecture_of(Patcher()) is None and base.spec_of(Patcher()) is None


def test_what_a_row_says_of_operators_and_memory_is_what_the_host_does(models, monkeypatch):
    tried = []
    monkeypatch.setattr(self_test, "triton_problem", lambda device: None)
    monkeypatch.setattr(self_test, "try_operator", lambda name, *where: tried.append(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flat = MixFFNMemory(lambda config, fused_norms: dict.fromkeys(("torch", "triton"), (1000.0, 1000.0)))
    row = dataclasses.replace(LINEAR_VIDEO, name="imaginary", operators=("token_rstd",), memory=flat)
    kind = type("ImaginaryHostConfig", (load.HOST_CONFIGS[LINEAR_VIDEO.name],), {"architecture": row})
    spec, state = tiny.tiny_spec(), models[LINEAR_VIDEO.name].model.diffusion_model.state_dict()
    self_test.kernel_problem.cache_clear()
    patcher = base.assemble(kind(spec), dict(state), "imaginary", weight_dtype=torch.float32)
    self_test.kernel_problem.cache_clear()
    assert tried == ["token_rstd"] and base.architecture_of(patcher) is row
    shape = (1, tiny.CHANNELS, tiny.FRAMES, tiny.SIDE, tiny.SIDE)
    tokens = tiny.FRAMES * (tiny.SIDE // 2) ** 2
    assert patcher.model.memory_required(shape) == pytest.approx(1.1 * 1000 * tokens * spec.config.width * 4)


def test_nodes_that_need_what_a_row_lacks_refuse_its_models(models):
    sana = models[SANA_VIDEO.name]
    with pytest.raises(ConfigError, match=r"not a linear video model that is trained here \(SANA-Video is not\)"):
        read_request(sana, None, None, None, {})
    with pytest.raises(ConfigError, match="no dynamics scale of its own"):
        _scale(sana, 256)
