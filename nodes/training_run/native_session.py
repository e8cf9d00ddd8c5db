"""What must hold while the host's own Wan trains an adapter, and its undoing, as one context manager.

Nodes run in inference mode, so the host's weights are inference tensors, which no gradient passes; newer hosts turn
queries and keys by an operator without gradients; attentions of other packs may have none either. In a session:

1. inference mode is off and gradients are on;
2. the MODEL's weights lie where the host puts them, in their own number type, streamed where they do not fit;
3. every layer computes with a copy of its weights, by a function of the host's own kind: no weight is replaced, and
   quantised products, which have no gradients, are not taken;
4. the base itself takes none;
5. blocks may be computed twice, called themselves: the host's own wrapper around a block runs the last one again;
6. the turning of queries and keys is plain torch;
7. attention is torch's.

Afterwards the MODEL is off the device, and everything is as it was, whatever ended the session.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import comfy.model_management as memory
import comfy.ops
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...motion.adapters.lora import is_linear
from ...motion.adapters.protocol import Adapter
from ...motion.adapters.slot_sums import summed_slots
from ...motion.errors import ConfigError
from ...motion.models.conditions import Conditions
from ..host import devices
from ..models.native_wan import NativeWan
from ..models.native_wan_attention import Watch, overridden, watched
from ..models.native_wan_blocks import KEY, PLACE, run_host_block
from ..models.native_wan_run import call_of
from .trainable_copy import NETWORK, refuse_what_is_no_weight

PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
FP8_LAYOUT = "TensorCoreFP8"  # how newer hosts call scaled fp8
WEIGHTS_WAY_OUT = "load the bf16, fp16 or fp8 file of this model with the host's own loader (Load Diffusion Model)"


class NativeSession:
    """Gradients through a plain Wan MODEL. checkpointing: keep only the blocks' inputs, and compute blocks twice.

    needed_bytes: what the host is asked to keep free beside the weights.
    Raises ConfigError for a MODEL that gradients do not pass: compiled, changed by other nodes in ways that are not
    weights, or with weights that are packed.
    """

    def __init__(self, wan: NativeWan, *, checkpointing: bool = False, needed_bytes: int = 0):
        refuse_what_gives_no_gradient(wan)
        self.wan, self.network = wan, wan.network
        self.checkpointing, self.needed_bytes = checkpointing, needed_bytes
        self._patcher, self._scales, self._inside = None, {}, None

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return getattr(self.wan.patcher.model, "manual_cast_dtype", None) or self.wan.patcher.model.get_dtype()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the session; inside it, hold it again for nothing."""
        if self._patcher is not None:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(self._loaded())
            stack.enter_context(_frozen(self.network))
            stack.enter_context(_rope_with_gradients())
            yield

    @contextmanager
    def holding(self, adapter: Adapter) -> Iterator[None]:
        """Hold an adapter on the network, in its layers or inside its blocks."""
        if adapter.slots is None:
            with adapter.attached():
                yield
            return
        self._inside = summed_slots([(1.0, adapter.slots)])
        try:
            yield
        finally:
            self._inside = None

    def load(self) -> None:
        """Have the host put the weights on the device, as far as there is room: other models may have taken theirs."""
        with torch.inference_mode():
            memory.load_models_gpu([self._patcher], memory_required=self.needed_bytes)
        if self._patcher.loaded_size() < self._patcher.model_size():
            self.checkpointing = True  # else a copy of every weight stays on the device for the way back
        self._lend_scales()

    def velocity(
        self, latents: Tensor, timestep: Tensor, conditions: Conditions, watch: Watch | None = None
    ) -> Tensor:
        """As `WanDiT.forward`, in the number type that the host computes in. watch: see `watched`."""
        x, image = latents.to(self.dtype), conditions.image_tokens
        if conditions.concat_latents is not None:
            x = torch.cat((x, conditions.concat_latents.to(x)), dim=1)
        image = None if image is None else image.to(x)
        options = overridden({}, _torch_attention)
        length, patches, blocks = None if image is None else image.shape[1], {}, range(len(self.wan.blocks))
        if self._inside is not None:
            options[KEY] = call_of(self.network, self._inside, x, timestep, image, conditions.masks)
        if self.checkpointing or self._inside is not None:
            patches = {(PLACE, index): _block_patch(self._block(index, length), twice=self.checkpointing)
                       for index in blocks}  # fmt: skip
        if conditions.frame_indices is not None:
            turns = self._turns(conditions.frame_indices, x)
            patches = {(PLACE, index): _at_places(turns, patches.get((PLACE, index))) for index in blocks}
        if patches:
            options["patches_replace"] = {"dit": patches}
        if watch is not None:
            options = watched(options, len(self.wan.blocks), watch)
        return self.network(x, timestep, conditions.context.to(x), clip_fea=image, transformer_options=options)

    def _turns(self, frames: Tensor, x: Tensor) -> Tensor:
        """The host's turns (b or 1, n, 1, d / 2, 2, 2) of latents like x whose frames stand at (t,) or (b, t).

        In float32 whatever is computed in: bfloat16 would make 16.75 of 16.8.
        """
        t, h, w = (-(-side // patch) for side, patch in zip(x.shape[2:], self.network.patch_size))
        frames = frames.to(x.device, torch.float32)
        frames = (frames if frames.ndim == 2 else frames.unsqueeze(0)).view(-1, t, 1, 1)
        axes = (torch.arange(h, dtype=torch.float32).view(h, 1), torch.arange(w, dtype=torch.float32))
        size = (len(frames), t, h, w)
        places = [frames.expand(size), *(axis.to(frames.device).expand(size) for axis in axes)]
        return self.network.rope_embedder(torch.stack(places, dim=-1).flatten(1, 3)).movedim(1, 2)

    def _block(self, index: int, image_length: int | None) -> Callable[[dict], Tensor]:
        """What computes a block: with adapters inside it, or as it is."""
        if self._inside is not None:
            return partial(run_host_block, index)
        return partial(_host_block, self.wan.blocks[index], image_length)

    def _lend_scales(self) -> None:
        """Older hosts multiply what a layer reads by the scale of its fp8 weights: by a copy, which gradients pass."""
        for layer in self.network.modules():
            scale = getattr(layer, "scale_weight", None)
            if isinstance(scale, Tensor) and scale.is_inference():
                self._scales.setdefault(layer, scale)
                with torch.inference_mode(False):
                    layer.scale_weight = nn.Parameter(scale.clone(), requires_grad=False)

    @contextmanager
    def _loaded(self) -> Iterator[None]:
        devices.unload_models()
        self._patcher = patcher = self.wan.patcher.clone()
        for name, module in patcher.model.named_modules():
            if name.startswith(NETWORK) and hasattr(module, "weight_function"):
                patcher.add_weight_wrapper(f"{name}.weight", _copied)
                patcher.add_weight_wrapper(f"{name}.bias", _copied)
        try:
            self.load()
            yield
        finally:
            self._patcher = None
            with torch.inference_mode():
                while self._scales:
                    layer, scale = self._scales.popitem()
                    layer.scale_weight = scale
                devices.unload_models()
            for module in patcher.model.modules():
                for name in ("weight_function", "bias_function"):
                    if _copied in getattr(module, name, ()):
                        setattr(module, name, [call for call in getattr(module, name) if call is not _copied])


def refuse_what_gives_no_gradient(wan: NativeWan) -> None:
    """See `NativeSession`. Raises ConfigError."""
    if wan.patcher.model_options.get("torch_compile_kwargs") is not None:
        raise ConfigError(
            "this MODEL is compiled (TorchCompileModel), and a compiled model cannot be trained; connect the model "
            "from before that node, and compile the trained one"
        )
    refuse_what_is_no_weight(wan.patcher)
    for name, layer in wan.network.named_modules():
        why = _no_gradient_through(layer) if is_linear(layer) else ""
        if why:
            raise ConfigError(f"layer {name} of this model {why}, which gradients do not pass; {WEIGHTS_WAY_OUT}")


def _no_gradient_through(layer: nn.Module) -> str:
    """Why a layer cannot stand in a training, "" where it can."""
    kind, weight = type(layer), layer.weight
    packed = getattr(weight, "_layout_cls", None)
    if not kind.__module__.startswith("comfy."):
        return f"is one of another pack ({kind.__module__.rpartition('.')[2]}.{kind.__name__}) with weights of its own"
    if packed is not None and not str(packed).startswith(FP8_LAYOUT):
        return f"has packed weights ({packed})"
    if packed is None and weight is not None and weight.dtype not in PLAIN:
        return f"has weights of {str(weight.dtype).removeprefix('torch.')}"
    forward = getattr(layer, "forward_comfy_cast_weights", None)
    if forward is not None and inspect.getclosurevars(forward).nonlocals.get("fp8_matrix_mult"):
        return "multiplies in fp8 (fast fp8 of this ComfyUI)"
    return ""


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the network's own weights. The host's fast fp8 layers are told that they train: only then do
    they leave their fp8 product, which has no gradient."""
    needed = {name: value.requires_grad for name, value in network.named_parameters()}
    fast = [layer for layer in network.modules() if isinstance(layer, comfy.ops.fp8_ops.Linear) and not layer.training]
    with torch.inference_mode():
        network.requires_grad_(False)
    for layer in fast:
        layer.training = True
    try:
        yield
    finally:
        for layer in fast:
            layer.training = False
        with torch.inference_mode():
            for name, value in network.named_parameters():
                value.requires_grad_(needed.get(name, False))


@contextmanager
def _rope_with_gradients() -> Iterator[None]:
    """Hosts that know `in_training` turn in plain torch while it is set; for the others the function is lent."""
    import comfy.ldm.wan.model as wan_module

    owner, name, lent = (memory, "in_training", True) if hasattr(memory, "in_training") else (
        wan_module, "apply_rope1", _turned
    )  # fmt: skip
    before = getattr(owner, name)
    setattr(owner, name, lent)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """x (b, n, heads, d), each pair turned by its matrix in turns (…, d / 2, 2, 2)."""
    pairs = x.to(turns.dtype).unflatten(-1, (-1, 1, 2))
    return (turns[..., 0] * pairs[..., 0] + turns[..., 1] * pairs[..., 1]).flatten(-2).type_as(x)


def _torch_attention(attend, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
    """See `overridden`: torch's own, whatever was chosen."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(q, k, v, heads, *args, **kwargs)


def _block_patch(run: Callable[[dict], Tensor], *, twice: bool):
    """A block patch of the host that runs the block by `run`. twice: keep only the block's input."""

    def patch(given: dict, extra: dict) -> dict:
        if not twice:
            return {"img": run(given)}
        return {"img": checkpoint(lambda x: run({**given, "img": x}), given["img"], use_reentrant=False,
                                  preserve_rng_state=False)}  # fmt: skip

    return patch


def _host_block(block: nn.Module, image_length: int | None, given: dict) -> Tensor:
    """The host's own block. image_length: image tokens before the text's."""
    return block(
        given["img"], e=given["vec"], freqs=given["pe"], context=given["txt"], context_img_len=image_length,
        transformer_options=given["transformer_options"],
    )  # fmt: skip


def _at_places(turns: Tensor, before):
    """A block patch of the host that turns queries and keys by `turns`. before: the one that runs the block, if any."""

    def run(given: dict, extra: dict) -> dict:
        given = {**given, "pe": turns}
        return extra["original_block"](given) if before is None else before(given, extra)

    return run


def _copied(weight: Tensor) -> Tensor:
    """A weight function of the host: what it gives out may be a view of a buffer that is used again."""
    return weight.clone()
