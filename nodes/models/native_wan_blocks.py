"""A block of the host's Wan, run from its layers with our adapters inside, and how it stands among others' patches.

The host calls one function instead of a block, set last by whoever came last. Ours keeps the one it finds and lends it
our block as its original. It holds no state of a run: what a call needs is in that call's transformer_options.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from ...motion.errors import ConfigError
from ...motion.models.block_adapters import BlockAdapters
from ...motion.models.module_weights import is_untouched
from ...motion.models.subject_masks import SubjectMasks
from ...motion.models.wan.block_run import BlockCalls, WanAround, run_wan_block
from ...motion.models.wan.rotary import WanRotary

KEY = "motionblocks_native_wan"  # of all that is ours on a MODEL, and of a call's `WanCall` in transformer_options
PLACE = "double_block"  # what the host calls a block of Wan


class WanCall(NamedTuple):
    """What one call of the network tells its blocks."""

    network: nn.Module
    adapters: BlockAdapters | None
    embedding: Tensor  # (b, t or 1, d), of the timestep
    grid: tuple[int, int]  # height, width in tokens
    image_tokens: int | None  # of CLIP vision, in front of the text
    masks: SubjectMasks | None = None  # of the subject


def block_patch(index: int, before: Callable | None) -> Callable:
    """The function that the host calls instead of block `index`. before: another's, which it calls with our block."""

    def patch(given: dict, extra: dict) -> dict:
        def ours(given: dict) -> dict:
            return {"img": run_host_block(index, given)}

        return ours(given) if before is None else before(given, {**extra, "original_block": ours})

    patch.motionblocks_before = before
    return patch


def is_ours(patch: Callable | None) -> bool:
    """Whether a block's patch is one of `block_patch`."""
    return hasattr(patch, "motionblocks_before")


def patches_of(options: Mapping) -> dict:
    """Block patches in transformer_options: {("double_block", index): function}."""
    return options.get("patches_replace", {}).get("dit", {})


def refuse_patches_over_ours(options: Mapping, count: int) -> None:
    """Refuse block patches that were set after ours: they call the host's block, and drop ours. Raises ConfigError."""
    for index in range(count):
        patch = patches_of(options).get((PLACE, index))
        if not is_ours(patch):
            raise ConfigError(
                f"{_named(patch)} replaces Wan's block {index} after the motion adapters were applied, which would "
                "drop them; connect the node of the motion adapters behind that one"
            )


def lend_our_blocks(options: Mapping) -> dict:
    """A copy of transformer_options in which patches of this call alone, as guidance sets them, are lent our blocks."""
    patches = {
        place: patch if is_ours(patch) or place[0] != PLACE else block_patch(place[1], patch)
        for place, patch in patches_of(options).items()
    }
    return {**options, "patches_replace": {**options.get("patches_replace", {}), "dit": patches}}


def run_host_block(index: int, given: dict) -> Tensor:
    """Tokens (b, n, d) -> tokens (b, n, d). given: what the host tells a block's patch."""
    told: WanCall = given["transformer_options"][KEY]
    block = told.network.blocks[index]
    if told.adapters is not None or not is_untouched(block.ffn[-1]):
        return _run_by_layers(index, block, given, told)
    return block(given["img"], context=given["txt"], e=given["vec"], freqs=given["pe"],
                 context_img_len=told.image_tokens, transformer_options=given["transformer_options"])  # fmt: skip


def _run_by_layers(index: int, block: nn.Module, given: dict, told: WanCall) -> Tensor:
    from comfy.ldm.wan import model as host

    options, context, places = given["transformer_options"], given["txt"], given["pe"]
    patches, attention, heads = options.get("patches", {}), block.self_attn, block.self_attn.num_heads

    def turn(h: Tensor) -> Tensor:
        return host.apply_rope1(h.unflatten(-1, (heads, -1)), places).flatten(2)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return host.optimized_attention(query, key, value, heads=heads, transformer_options=options)

    def attended(mixed: Tensor, query: Tensor, key: Tensor) -> Tensor:
        query, key = (part.unflatten(-1, (heads, -1)) for part in (query, key))
        for patch in patches.get("attn1_patch", ()):
            mixed = patch({"x": mixed, "q": query, "k": key, "transformer_options": options})
        return mixed

    def read(x: Tensor) -> Tensor:
        for patch in patches.get("attn2_patch", ()):
            x = patch({"x": x, "transformer_options": options})
        return x

    calls = BlockCalls(
        self_attention=lambda h: attention(h, places, transformer_options=options), turn=turn, attend=attend,
        cross_attention=lambda h: block.cross_attn(
            h, context, context_img_len=told.image_tokens, transformer_options=options
        ),
        feed_forward=lambda h: _feed_forward(block.ffn, h), may_open=_may_open(attention),
        attended=attended if _calls(host.WanSelfAttention, "attn1_patch") else None,
        read=read if _calls(host.WanAttentionBlock, "attn2_patch") else None,
    )  # fmt: skip
    rotary = WanRotary(places[..., 0], places[..., 1])
    around = WanAround(told.embedding, told.grid, rotary, "torch", index, told.masks)
    return run_wan_block(block, given["img"].contiguous(), given["vec"], calls, told.adapters, around)


def _feed_forward(layers: nn.Sequential, h: Tensor) -> Tensor:
    """Newer hosts may fold the last layer into a call that hooks on it do not see."""
    return layers(h) if is_untouched(layers[-1]) else nn.Sequential.forward(layers, h)


def _may_open(attention: nn.Module) -> bool:
    """Whether calling the host's self-attention does nothing but what its parts do."""
    return is_untouched(attention) and type(attention).forward.__module__ == "comfy.ldm.wan.model"


def _calls(kind: type, name: str) -> bool:
    """Whether this host's class looks for patches of this name: older ones do not."""
    return name in getattr(getattr(kind.forward, "__code__", None), "co_consts", ())


def _named(patch) -> str:
    """What a message calls another's patch: its file or package, and its name."""
    name = getattr(patch, "__qualname__", type(patch).__qualname__)
    module = (getattr(patch, "__module__", None) or "").replace("\\", "/").rpartition("/")[2]
    return f"{module}.{name}".strip(".")[:120] if patch is not None else "another node"
