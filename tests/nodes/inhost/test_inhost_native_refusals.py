"""What training beside the host's own Wan refuses, and that whatever ends a run leaves the MODEL as it was."""

import json

import comfy.ldm.wan.model
import comfy.model_management
import comfy.ops
import pytest
import tiny_native_wan as tiny
import torch
from native_training import CONFIG, dataset, differences, native_model, native_trainee, seen, trainer_of
from pack.motion.errors import ConfigError
from pack.motion.io.training.states import list_states, read_state
from training_toys import keys

SHORT = CONFIG.changed(num_steps=4, batch_size=1, schedule="constant")
Interrupted = comfy.model_management.InterruptProcessingException


def test_a_compiled_model_is_refused():
    model = tiny.native()
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    with pytest.raises(ConfigError, match="compiled.*connect the model from before that node"):
        native_trainee(compiled)


def test_full_weights_are_refused():
    session = native_trainee(tiny.native()).session(frozen=False)
    with pytest.raises(ConfigError, match="trained by a LoRA beside it; set mode to lora"), session:
        pass


class GGMLLinear(comfy.ops.manual_cast.Linear):
    """As the GGUF packs have it: the host's class, with weights that only it can read."""


class PackedInt8Linear(comfy.ops.manual_cast.Linear):
    """As INT8 packs have it."""

    def __init__(self, inside, outside, bias=True, device=None, dtype=None):
        super().__init__(inside, outside, bias, device, torch.float32)
        self.weight = torch.nn.Parameter(torch.zeros(outside, inside, dtype=torch.int8), requires_grad=False)


@pytest.mark.parametrize("layer", [GGMLLinear, PackedInt8Linear])
def test_gguf_and_int8_bases_of_other_packs_are_refused_by_their_layers(layer):
    operations = type("Operations", (comfy.ops.manual_cast,), {"Linear": layer})
    model = tiny.native(custom_operations=operations)
    with pytest.raises(ConfigError, match=f"is one of another pack .*{layer.__name__}.*load the bf16, fp16 or fp8"):
        native_trainee(model)


def int8_of_the_host():
    """A MODEL, one of whose layers newer hosts read as INT8."""
    state = tiny.weights()
    name = "blocks.0.self_attn.q"
    form = json.dumps({"format": "int8_tensorwise"}).encode()
    state[f"{name}.weight"] = torch.zeros(256, 256, dtype=torch.int8)
    state[f"{name}.weight_scale"] = torch.ones(())
    state[f"{name}.comfy_quant"] = torch.tensor(list(form), dtype=torch.uint8)
    return tiny.loaded(state)


if hasattr(comfy.ops, "mixed_precision_ops"):  # newer hosts read INT8 themselves

    def test_an_int8_base_of_the_host_is_refused():
        with pytest.raises(ConfigError, match="layer blocks.0.self_attn.q .*packed weights .*INT8.*load the bf16"):
            native_trainee(int8_of_the_host())


if hasattr(comfy.ops, "scaled_fp8_ops"):  # older hosts

    def test_scaled_fp8_that_multiplies_in_fp8_is_refused():
        fast, slow = (comfy.ops.scaled_fp8_ops(fp8_matrix_mult=on, scale_input=True) for on in (True, False))
        with pytest.raises(ConfigError, match="multiplies in fp8 .*gradients do not pass"):
            native_trainee(tiny.native(custom_operations=fast))
        assert native_trainee(tiny.native(custom_operations=slow))


def test_block_patches_of_other_nodes_are_refused():
    model = tiny.native().clone()
    model.set_model_patch_replace(lambda given, extra: extra["original_block"](given), "dit", "double_block", 0)
    with pytest.raises(ConfigError, match="carries block patches from another node"):
        native_trainee(model)


class Failing:
    """Stands in the way of one call of a block, counted from when it is put there."""

    def __init__(self, monkeypatch, error, calls):
        original, self.left = comfy.ldm.wan.model.WanAttentionBlock.forward, calls

        def forward(block, *args, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise error
            return original(block, *args, **kwargs)

        monkeypatch.setattr(comfy.ldm.wan.model.WanAttentionBlock, "forward", forward)


@pytest.mark.parametrize("calls", [6, 7], ids=["going forth", "computing the second time"])
@pytest.mark.parametrize("error", [Interrupted(), RuntimeError("broken")], ids=["cancel", "error"])
def test_what_ends_a_checkpointed_step_passes_with_the_state_saved_and_the_model_as_before(
    monkeypatch, tmp_path, figure, error, calls
):
    """Two blocks go forth and are computed again on the way back: call 5 begins the second step."""
    model = native_model()
    before = seen(model)
    trainer = trainer_of(native_trainee(model, checkpointing=True), config=SHORT, folder=tmp_path)
    failing = Failing(monkeypatch, error, calls)
    with pytest.raises(type(error)) as caught:
        trainer.run()
    monkeypatch.undo()
    assert caught.value is error and failing.left <= 0 and read_state(list_states(tmp_path)[0]).step == 1
    left, end = differences(before, seen(model)), "a cancel" if isinstance(error, Interrupted) else "an error"
    way = "forth" if calls == 6 else "back"
    figure(f"training ended by {end} on the way {way}: things of the MODEL that differ", len(left))
    assert left == []


def test_out_of_memory_is_tried_again_with_checkpointing_and_trains_the_same(monkeypatch, caplog):
    whole = trainer_of(native_trainee(tiny.native()), config=SHORT)
    whole.run()
    trainee = native_trainee(tiny.native())
    Failing(monkeypatch, torch.cuda.OutOfMemoryError("CUDA out of memory"), calls=4)
    trainer = trainer_of(trainee, config=SHORT)
    trainer.run()
    assert trainee.native.checkpointing and "gradient_checkpointing is on from here" in caplog.text
    assert trainer.losses == whole.losses


def test_out_of_memory_with_checkpointing_says_what_is_needed(monkeypatch, tmp_path, figure):
    model = native_model()
    before = seen(model)
    Failing(monkeypatch, torch.cuda.OutOfMemoryError("CUDA out of memory"), calls=6)
    with pytest.raises(ConfigError, match=r"1 videos of 5 frames, 32x32 px, needs about \d+\.\d GiB.*lower resolution"):
        trainer_of(native_trainee(model, checkpointing=True), config=SHORT, folder=tmp_path).run()
    left = differences(before, seen(model))
    figure("training out of memory: things of the MODEL that differ", len(left))
    assert read_state(list_states(tmp_path)[0]).step == 1 and left == []


def kept_for_the_way_back(model, data, kind, checkpointing):
    """Bytes that a step holds between forth and back, and the estimate."""
    trainee, kept = native_trainee(model, checkpointing=checkpointing), {}
    trainer = trainer_of(trainee, kind, SHORT.changed(targets=("attn", "ffn")), data=data)
    own = {value.untyped_storage().data_ptr() for value in (*trainee.module.parameters(), *trainer.values)}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.inference_mode(False), torch.enable_grad(), trainer.task.running():
        batch = trainer.task.draw(keys(1))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trainer.task.loss(batch).sum().backward()
    trainee.expect([batch.tensors["latents"].shape])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), trainee.native.needed_bytes


@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_estimate_of_memory_is_what_is_kept_for_the_way_back(kind):
    model, data = tiny.native(kind), dataset(kind, 1, (16, 5, 16, 24), words=512)
    (whole, estimate), (inputs, least) = (kept_for_the_way_back(model, data, kind, on) for on in (False, True))
    assert whole <= estimate <= 1.8 * whole
    assert inputs + whole / 2 <= least <= 1.8 * (inputs + whole / 2)  # the insides of one block of two


def test_swapped_experts_are_told_and_refused_by_nobody(tmp_path, caplog):
    half = SHORT.changed(num_steps=2)
    trainer_of(native_trainee(tiny.native("expert", seed=0)), "expert", half, folder=tmp_path).run()
    trainer_of(native_trainee(tiny.native("expert", seed=0)), "expert", SHORT.changed(num_steps=3), folder=tmp_path,
               resume="latest").run()  # fmt: skip
    assert "the base is another one" not in caplog.text
    trainer_of(native_trainee(tiny.native("expert", seed=1)), "expert", SHORT, folder=tmp_path, resume="latest").run()
    assert "the base is another one than the run began with; of Wan 2.2 each expert" in caplog.text
