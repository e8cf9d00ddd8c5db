"""Training beside the host's own Wan: the same numbers as beside our network, and nothing of the MODEL changed."""

import time

import comfy.model_management
import comfy.ops
import pytest
import tiny_native_wan as tiny
import torch
import wan_files
from native_training import CONFIG, differences, native_model, native_trainee, own_trainee, seen, trainer_of, used
from pack.motion.adapters.lora import LoRA
from pack.motion.io.adapters.adapter_file import load_adapter, save_adapter
from pack.motion.models.conditions import Conditions
from training_toys import keys

KINDS = ("text", "image", "expert")


def timed(trainer):
    """Processor seconds a step of a whole run."""
    started = time.process_time()
    trainer.run()
    return (time.process_time() - started) / len(trainer.losses)


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_steps_have_the_losses_of_our_own_network(figure, kind):
    own = trainer_of(own_trainee(kind), kind)
    seconds = {"our own network": timed(own)}
    model = native_model(kind)
    before = seen(model)
    native = trainer_of(native_trainee(model, checkpointing=kind != "text"), kind)
    seconds["the host's" + ("" if kind == "text" else ", blocks computed twice")] = timed(native)
    left = differences(before, seen(model))
    apart = [abs(one - two) for one, two in zip(own.losses, native.losses)]
    figure(f"training, {kind}: largest of 20 differences in loss from our own network", max(apart))
    figure(f"training, {kind}: things of the MODEL that differ afterwards", len(left))
    for name, value in seconds.items():
        figure(f"training, {kind}: processor seconds a step, {name}", value)
    assert left == [] and len(apart) == 20 and max(apart) <= 1e-4 and own.losses[-1] < own.losses[0]
    for name, value in own.parameters.items():
        torch.testing.assert_close(native.parameters[name], value, atol=5e-3, rtol=0)


def gradients(trainee, kind="text"):
    """Gradients of a drawn LoRA after one batch, by name."""
    with torch.inference_mode(False), torch.enable_grad():
        lora = LoRA(trainee.module, targets=("attn", "ffn"), rank=2, alpha=2.0)
        for value in lora.parameters().values():
            value.data.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(5)) / 8)
        trainer = trainer_of(trainee, kind, adapter=lora)
        with trainer.task.running():
            trainer.task.loss(trainer.task.draw(keys(2))).sum().backward()
    return {name: value.grad for name, value in lora.parameters().items()}


@pytest.mark.parametrize("kind", ["text", "image"])
def test_gradients_are_those_of_our_network_and_computing_blocks_twice_changes_no_bit(figure, kind):
    model = native_model(kind)
    plain, twice = (gradients(native_trainee(model, checkpointing=on), kind) for on in (False, True))
    figure(f"gradients, {kind}, blocks computed twice: largest difference",
           max((plain[name] - twice[name]).abs().max().item() for name in plain))  # fmt: skip
    own = gradients(own_trainee(kind), kind)
    assert plain.keys() == own.keys() and all(torch.equal(plain[name], twice[name]) for name in plain)
    for name, value in own.items():
        torch.testing.assert_close(plain[name], value, atol=1e-3 * float(value.abs().max()), rtol=0)


def velocities(model, own, adapter=None):
    """What a MODEL, and our network with an adapter on, say of one noised video."""
    latents, timestep, context = torch.randn(1, 16, 2, 4, 4), torch.tensor([600.0]), torch.randn(1, 6, tiny.TEXT)
    comfy.model_management.load_models_gpu([model])
    said = model.model.diffusion_model(latents, timestep, context)
    comfy.model_management.unload_all_models()
    with adapter.attached():
        return said, own(latents, timestep, Conditions(context))


@pytest.mark.parametrize("trained_by", ["own", "native"])
def test_a_lora_file_of_either_loads_beside_the_other_and_whole_in_cores_loader(
    core, figure, loras_folder, trained_by
):
    model, own = native_model(), own_trainee()
    trainer = trainer_of(own if trained_by == "own" else native_trainee(model), config=CONFIG.changed(num_steps=2))
    trainer.run()
    path = loras_folder / f"by_{trained_by}.safetensors"
    save_adapter(path, trainer.task.adapter)
    (patched,) = core("LoraLoaderModelOnly", model=model, lora_name=path.name, strength_model=1.0)
    assert len(patched.patches) == 2 * 8 == len(trainer.task.adapter.layers)  # two blocks, two attentions of four
    beside_native = load_adapter(path, model.model.diffusion_model)
    assert [*beside_native.layers] == [*trainer.task.adapter.layers]
    native, expected = velocities(patched, own.module, load_adapter(path, own.module))
    said = f"a LoRA trained beside {'our own network' if trained_by == 'own' else 'the host'}"
    figure(f"{said}: layers of 16 that core's loader applies", len(patched.patches))
    figure(f"{said}: largest difference, core's loader from our own network", (native - expected).abs().max().item())
    torch.testing.assert_close(native, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(native, velocities(model, own.module, beside_native)[0], atol=1e-4)


FAST_FP8 = [("plain fp8", {"dtype": torch.float8_e4m3fn}),
            ("fast fp8", {"dtype": torch.float8_e4m3fn, "custom_operations": comfy.ops.fp8_ops})]  # fmt: skip


@pytest.mark.parametrize("options", [row[1] for row in FAST_FP8], ids=[row[0] for row in FAST_FP8])
def test_a_base_in_fp8_is_trained_beside_without_its_fp8_product(monkeypatch, figure, request, options):
    called = []
    monkeypatch.setattr(comfy.ops, "fp8_linear", lambda layer, x: called.append(layer))
    model = native_model(**options)
    model.model.eval()  # as the host's loader leaves it, or as a node may
    called.clear()
    before = seen(model)
    trainer = trainer_of(native_trainee(model, checkpointing=True), config=CONFIG.changed(num_steps=3))
    trainer.run()
    own = own_trainee()
    with torch.no_grad():
        for name, value in own.module.named_parameters():
            value.copy_(model.model.diffusion_model.get_parameter(name).to(torch.float32))
    truth = trainer_of(own, config=CONFIG.changed(num_steps=3))
    truth.run()
    left, name = differences(before, seen(model)), request.node.callspec.id
    figure(f"training beside a base in {name}: things of the MODEL that differ afterwards", len(left))
    assert not called and left == []
    assert trainer.losses == pytest.approx(truth.losses, rel=2e-2)


def test_a_base_in_scaled_fp8_is_trained_beside_as_the_numbers_it_means():
    tensors, _, truth = wan_files.scaled(tiny.weights(), "older")
    model = tiny.loaded(tensors)
    used(model)
    before, short = seen(model), CONFIG.changed(num_steps=3)
    trainer = trainer_of(native_trainee(model), config=short)
    trainer.run()
    own = own_trainee()
    own.module.load_state_dict({name: value.float() for name, value in truth.items()})
    expected = trainer_of(own, config=short)
    expected.run()
    assert len(trainer.task.adapter.layers) == 16 and differences(before, seen(model)) == []
    assert trainer.losses == pytest.approx(expected.losses, rel=2e-2)


def test_a_base_that_asked_for_gradients_gets_none_and_asks_afterwards_as_before():
    model = native_model()
    norm = model.model.diffusion_model.blocks[0].self_attn.norm_q
    norm.weight.requires_grad_(True)
    before = seen(model)
    trainer_of(native_trainee(model), config=CONFIG.changed(num_steps=1)).run()
    assert norm.weight.grad is None and norm.weight.requires_grad and differences(before, seen(model)) == []


@pytest.mark.parametrize("comes_back", [True, False])
def test_weights_that_the_host_moves_away_in_the_middle_change_no_loss(core, loras_folder, comes_back):
    """As a VAE that needs room does; beside a LoRA of the MODEL's own, which the host then works in on the way."""
    lora = LoRA(tiny.native().model.diffusion_model, targets=("self_attn.q", "ffn.0"), rank=1, alpha=1.0)
    with torch.inference_mode(False), torch.no_grad():
        for layer in lora.layers.values():
            layer.up.fill_(0.01)
        save_adapter(loras_folder / "before.safetensors", lora)
    (model,) = core("LoraLoaderModelOnly", model=native_model(), lora_name="before.safetensors", strength_model=1.0)
    used(model)
    before, short = seen(model), CONFIG.changed(num_steps=3)
    whole = trainer_of(native_trainee(model), config=short)
    whole.run()
    trainee = native_trainee(model)

    freed = []

    def moved_away(report):
        with torch.inference_mode():
            freed.append(trainee.native._patcher.partially_unload(torch.device("cpu"), 10**9))
        if comes_back:
            trainee.native.load()

    trainer = trainer_of(trainee, config=short, on_step=moved_away)
    trainer.run()
    assert freed[0] > 0 and trainer.losses == pytest.approx(whole.losses, abs=1e-6)
    assert differences(before, seen(model), sampled=True) == []
