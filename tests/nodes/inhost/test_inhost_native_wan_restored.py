"""After runs with motion adapters, finished, cancelled and failed, the base is as it was, compared by value."""

import functools
import hashlib
from types import SimpleNamespace

import comfy.model_management
import pytest
import tiny_native_wan as tiny
import torch
from comfy.patcher_extension import WrappersMP
from pack.motion.adapters.lora import LoRA
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.errors import ConfigError
from pack.nodes.host import devices
from pack.nodes.models.native_wan_adapters import attach, attached_stack, detach
from pack.nodes.models.native_wan_blocks import KEY
from wan_adapters import CrossFrame, TextMLP

WIDTH = 256
CROSS, TEXT = CrossFrame(WIDTH), TextMLP(WIDTH)


@functools.cache
def base():
    return tiny.native()


def hooks_of(network):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {(name, kind): list(getattr(module, kind)) for name, module in network.named_modules() for kind in kinds
            if getattr(module, kind)}  # fmt: skip


def options_of(patcher):
    return repr((patcher.model_options, patcher.wrappers, patcher.object_patches, sorted(patcher.patches),
                 patcher.attachments, patcher.additional_models, patcher.injections, patcher.callbacks))  # fmt: skip


def by_value(patcher):
    """All that a run could leave on a MODEL and on the network in it."""
    network = patcher.model.diffusion_model
    values = {name: hashlib.sha256(value.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
              for name, value in patcher.model.state_dict().items()}  # fmt: skip
    return {
        "weights": values, "hooks": hooks_of(network), "options": options_of(patcher), "mode": network.training,
        "own": {name: sorted(vars(module)) for name, module in network.named_modules()},
        "functions": {name: (list(module.weight_function), list(module.bias_function))
                      for name, module in network.named_modules() if hasattr(module, "weight_function")},
        "global hooks": dict(torch.nn.modules.module._global_forward_hooks),
    }  # fmt: skip


def lora():
    made = LoRA(base().model.diffusion_model, targets=("self_attn", "ffn"), rank=2, alpha=2.0)
    for number, value in enumerate(made.parameters().values()):
        value.data.copy_(tiny.randn(*value.shape, seed=number) / 8)
    return made


def put(model):
    entries = tuple(StackEntry(adapter, weight=0.7) for adapter in (CROSS, TEXT, lora()))
    return attach(model, AdapterStack(entries), clean_first_frame=True)


def fault(error):
    """An attention override that fails in the middle of a call, in the second block."""
    calls = []

    def override(func, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return func(*args, **kwargs)

    return override


ENDS = {"finished": None, "was cancelled": comfy.model_management.InterruptProcessingException(),
        "failed": RuntimeError("out of something")}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_the_base_is_as_it_was_after_a_run(core, figure, end):
    plain, error = tiny.sample(core, base()), ENDS[end]
    comfy.model_management.unload_all_models()
    before = by_value(base())
    model = put(base())
    attached = options_of(model)
    if error is not None:
        model.model_options["transformer_options"]["optimized_attention_override"] = fault(error)
        with pytest.raises(type(error)):
            tiny.sample(core, model, first=tiny.first_latent())
        assert hooks_of(base().model.diffusion_model) == {}
        model.model_options["transformer_options"].pop("optimized_attention_override")
    else:
        tiny.sample(core, model, first=tiny.first_latent())
    assert options_of(model) == attached
    out = tiny.sample(core, model, first=tiny.first_latent())
    assert torch.equal(out, tiny.sample(core, put(base()), first=tiny.first_latent()))
    again = tiny.sample(core, base())
    comfy.model_management.unload_all_models()
    after = by_value(base())
    differ = sum(before[part] != after[part] for part in before)
    figure(f"a run that {end}: of {len(before)} things of the base, differ", differ)
    assert {part: before[part] == after[part] for part in before} == dict.fromkeys(before, True)
    assert torch.equal(again, plain)


def test_a_second_stack_takes_the_place_of_the_first(core):
    first = tiny.first_latent()
    other = AdapterStack((StackEntry(CROSS),))
    twice = attach(put(base()), other, clean_first_frame=True)
    once = attach(base(), other, clean_first_frame=True)
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.DIFFUSION_MODEL):
        assert len(twice.get_wrappers(kind, KEY)) == 1
    assert attached_stack(twice) is other and len(twice.get_additional_models()) == 1
    assert attached_stack(twice.clone()) is other and attached_stack(base()) is None
    assert torch.equal(tiny.sample(core, twice, first=first), tiny.sample(core, once, first=first))


def test_a_copy_without_adapters_is_the_base_and_keeps_what_others_set(core):
    def double(args, extra):
        return {"img": 2 * extra["original_block"](args)["img"]}

    theirs = base().clone()
    theirs.set_model_patch_replace(double, "dit", "double_block", 0)
    for model in (base(), theirs):
        plain = detach(put(put(model)))
        assert attached_stack(plain) is None and plain.get_additional_models() == []
        assert torch.equal(tiny.sample(core, plain), tiny.sample(core, model))
    assert detach(put(theirs)).model_options == theirs.model_options


def test_weights_of_adapters_go_where_the_host_takes_the_model(core):
    model = put(base())
    (weights,) = model.get_additional_models()
    stored = [value for adapter in (CROSS, TEXT) for value in adapter.parameters().values()]
    held = list(weights.model.parameters())
    assert all(any(value is other for other in held) for value in stored) and len(held) == len(stored) + 2 * 12
    assert weights.model_size() == sum(value.nbytes for value in held)
    seen = []

    def watch(executor, *args, **more):
        seen.append([loaded.model.model for loaded in comfy.model_management.current_loaded_models])
        return executor(*args, **more)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    tiny.sample(core, model, first=tiny.first_latent())
    assert all(any(module is weights.model for module in loaded) for loaded in seen) and seen


def test_weights_that_two_models_share_are_where_the_video_is_at_every_call(core, monkeypatch):
    asked, shared = [], CrossFrame(WIDTH)
    whole = devices.bring

    def bring(weights, device):
        asked.append((list(weights), device))
        return whole(asked[-1][0], device)

    monkeypatch.setattr(devices, "bring", bring)
    for _ in range(2):
        tiny.sample(core, attach(base(), AdapterStack((StackEntry(shared),)), clean_first_frame=False), steps=1)
    assert len(asked) >= 2 and {device.type for _, device in asked} == {"cpu"}
    assert all([id(value) for value in found] == [id(value) for value in shared.weights.values()] for found, _ in asked)


def test_only_weights_that_are_elsewhere_are_moved():
    """A stand-in, since a CPU has no second device whose numbers a parameter could hold."""
    cpu, here = torch.device("cpu"), torch.nn.Parameter(torch.ones(2))
    kept = here.data_ptr()
    away = SimpleNamespace(device=torch.device("cuda"), data=SimpleNamespace(to=lambda device: ("moved", device)))
    devices.bring([here, away], cpu)
    assert away.data == ("moved", cpu) and here.data_ptr() == kept


def test_adapters_of_another_network_are_refused_when_they_are_attached():
    stack = AdapterStack((StackEntry(CROSS), StackEntry(CrossFrame(128))))
    with pytest.raises(ConfigError, match="adapter 2 of the stack .cross_frame. was made for a network whose blocks.0"):
        attach(base(), stack, clean_first_frame=True)


def test_an_attention_that_no_wan_has_is_refused_when_it_is_attached():
    class Along(CrossFrame):
        @property
        def slots(self):
            from pack.motion.models.block_adapters import BlockAdapters

            return BlockAdapters(temporal=self.answer)

    with pytest.raises(ConfigError, match="Wan has one attention for space and time"):
        attach(base(), AdapterStack((StackEntry(Along(WIDTH)),)), clean_first_frame=True)
