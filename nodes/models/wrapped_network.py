"""What our networks share inside a MODEL of the host: its attention, its wrappers and its patches around blocks."""

import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from einops import rearrange
from torch import Tensor

from ...motion.errors import ConfigError
from .layer_weights import host_weights

FLOW_MULTIPLIER = 1000


def host_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    """Softmax attention by the switch the user started the host with; arguments as `torch_attention`."""
    from comfy.ldm.modules import attention

    switch = attention.optimized_attention if mask is None else attention.optimized_attention_masked
    return switch(query, key, value, num_heads, mask=mask)


def need_text(context: Tensor | None) -> Tensor:
    """Refuse a prompt without text. Raises ConfigError."""
    if context is None:
        raise ConfigError("the conditioning holds no text embedding; encode a prompt with the model's CLIP")
    return context


class HostNetwork:
    """The host's call of a BlockStack, first among its bases: wrappers around `_predict`, patches around blocks.

    Its heir gives `_predict(x, timestep, context, control, transformer_options, **conditions)`, the network's call.
    Made without memory; weights are assigned.
    """

    def __init__(
        self, *, config, integer_timesteps: bool, kernels: str = "auto", dtype=None, device=None,
        operations=torch.nn, **_unused,
    ):  # fmt: skip
        super().__init__(
            config, operations=operations, attention=host_attention, kernels=kernels, weights_of=host_weights,
            dtype=dtype, device="meta",
        )  # fmt: skip
        self.integer_timesteps = integer_timesteps

    def forward(self, x, timestep, context=None, control=None, transformer_options=None, **conditions):
        """x (b, c, t, h, w), timestep 1000·sigma, (b,) or (b, t) -> velocity. Wrappers of others run around it."""
        options = transformer_options or {}
        executor = WrapperExecutor.new_class_executor(
            self._predict, self, get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        )
        return executor.execute(x, timestep, context, control, options, **conditions)

    def frames_seen(self, x: Tensor, **conditions) -> tuple[int, Tensor | None]:
        """Latent frames of the whole clip, and which of them the blocks see in a call; None where it is all of them.

        x, conditions: what `forward` is called with.
        """
        return x.shape[2], None

    def _block_runner(self, timestep: Tensor, context: Tensor, options: dict):
        """The `run_block` that lets patches_replace["dit"][("double_block", i)] stand in for block i."""
        patches = options.get("patches_replace", {}).get("dit", {})
        if not patches:
            return None

        def run_block(index: int, call, hidden_states: Tensor) -> Tensor:
            patch = patches.get(("double_block", index))
            if patch is None:
                return call(hidden_states)
            n = hidden_states.shape[2]

            def original_block(given: dict) -> dict:
                tokens = call(rearrange(given["img"], "b (t n) d -> b t n d", n=n))
                return {"img": rearrange(tokens, "b t n d -> b (t n) d")}

            told = {"block_index": index, "block_type": "double", "total_blocks": len(self.transformer_blocks)}
            given = {"img": rearrange(hidden_states, "b t n d -> b (t n) d"), "txt": context, "vec": timestep}
            given |= {"pe": None, "transformer_options": {**options, **told}}
            out = patch(given, {"original_block": original_block})
            return rearrange(out["img"], "b (t n) d -> b t n d", n=n)

        return run_block
