"""Tell by the names of its tensors what a weight file is, so that a refusal can say what was chosen instead.

The tables list marks: pieces of tensor names, all of which must occur. The first row that fits wins.
"""

from collections.abc import Collection, Mapping

from ...models.architectures import ARCHITECTURES, ArchitectureTable
from ...models.linear_video.architecture import LINEAR_VIDEO

CONTAINERS = ("ema.", "model.diffusion_model.", "diffusion_model.", "model.", "module.", "state_dict.")
_LORA_MARKS = (
    ".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", "_lora.down.", "_lora.up.", ".lora.down.", ".hada_w1_a",
    ".lokr_w1", ".lokr_w2", ".alpha\n", ".dora_scale", ".oft_blocks",
)  # fmt: skip
_LORA_BASES = (
    ("this pack's linear video model", ("attn_temporal",)),
    ("SANA", ("conv_inverted",)),
    ("Wan", ("cross_attn",)),
    ("HunyuanVideo", ("double_blocks", "img_attn_qkv")),
    ("Flux", ("single_transformer_blocks",)),
    ("Flux", ("double_blocks",)),
    ("Stable Diffusion 3", ("joint_blocks",)),
    ("Stable Diffusion XL", ("input_blocks_8_1_transformer_blocks_9",)),
    ("Stable Diffusion XL", ("te2_text_model",)),
    ("AnimateDiff", ("motion_modules",)),
    ("a Stable Diffusion UNet", ("down_blocks",)),
    ("a Stable Diffusion UNet", ("input_blocks",)),
)
_FOREIGN = (
    ("a ControlNet", ("control_model.",)),
    ("a ControlNet", ("controlnet_cond_embedding.",)),
    ("an AnimateDiff motion module", ("motion_modules.", "temporal_transformer.")),
    ("a whole Stable Diffusion XL checkpoint", ("first_stage_model.", "conditioner.embedders.1.")),
    ("a whole Stable Video Diffusion checkpoint", ("first_stage_model.", "time_stack.")),
    ("a whole Stable Diffusion checkpoint", ("first_stage_model.", "cond_stage_model.")),
    ("a whole checkpoint with a VAE in it", ("first_stage_model.",)),
    ("a SANA-Sprint image model (diffusers layout)", ("conv_inverted.", "guidance_embedder.")),
    ("a SANA-Sprint image model (diffusers layout)", ("conv_inverted.", "time_embed.timestep_embedder.")),
    ("a SANA-Video model (diffusers layout)", ("\npatch_embedding.weight", "ff.conv_temp.")),
    ("a SANA image model (diffusers layout)", ("patch_embed.proj.weight", "ff.conv_inverted.")),
    ("a SANA-Video model (NVlabs layout)", ("x_embedder.proj.weight", "mlp.t_conv.")),
    ("a SANA image model (NVlabs layout)", ("x_embedder.proj.weight", "mlp.inverted_conv.")),
    ("a PixArt image model", ("adaln_single.", "caption_projection.", "pos_embed.proj.")),
    ("a PixArt image model", ("x_embedder.proj.weight", "t_block.1.", "y_embedder.")),
    ("a Wan 2.1 or 2.2 video model", ("patch_embedding.weight", "self_attn.q.weight")),
    ("a Wan 2.1 or 2.2 video model (diffusers layout)", ("patch_embedding.weight", "condition_embedder.")),
    ("a HunyuanVideo model", ("double_blocks.", "txt_in.individual_token_refiner.")),
    ("a Flux image model", ("double_blocks.", "single_blocks.")),
    ("a Qwen-Image model", ("transformer_blocks.0.img_mod", "txt_norm.weight")),
    ("a Flux image model (diffusers layout)", ("single_transformer_blocks.", "x_embedder.weight")),
    ("a Stable Diffusion 3 image model", ("joint_blocks.",)),
    ("an LTX-Video model", ("patchify_proj.weight",)),
    ("an LTX-Video model (diffusers layout)", ("caption_projection.", "\nproj_in.weight", "scale_shift_table")),
    ("a CogVideoX model", ("patch_embed.proj.weight", "norm1.linear.weight", "patch_embed.text_proj.")),
    ("a Lumina 2 image model", ("cap_embedder.", "noise_refiner.")),
    ("a Stable Video Diffusion UNet", ("input_blocks.", "time_stack.")),
    ("a Stable Diffusion XL UNet", ("input_blocks.", "label_emb.")),
    ("a Stable Diffusion UNet", ("input_blocks.", "output_blocks.")),
    ("a video UNet such as Cinemo or Stable Video Diffusion (diffusers layout)",
     ("down_blocks.", "conv_in.weight", "up_blocks.", "temp", "time_embedding.")),
    ("a Stable Diffusion XL UNet (diffusers layout)", ("down_blocks.", "time_embedding.", "add_embedding.")),
    ("a Stable Diffusion UNet (diffusers layout)", ("down_blocks.", "time_embedding.", "conv_in.weight")),
    ("a temporal VAE such as Stable Video Diffusion's", ("decoder.", "temporal_res_block.")),
    ("a Wan VAE", ("decoder.middle.", "encoder.downsamples.")),
    ("a DC-AE VAE", ("encoder.stages.", "decoder.stages.")),
    ("a DC-AE VAE", ("encoder.down_blocks.", "to_qkv_multiscale")),
    ("a VAE", ("encoder.conv_in.", "decoder.conv_in.")),
    ("a VAE", ("encoder.conv_in.", "decoder.conv_out.")),
    ("a VAE decoder", ("decoder.conv_in.", "decoder.conv_out.")),
    ("a T5 text encoder", ("layer.0.SelfAttention.q.weight",)),
    ("a CLIP vision model", ("vision_model.",)),
    ("a CLIP text encoder", ("text_model.",)),
    ("a language model, used as text encoder by many models", ("self_attn.q_proj.weight", "embed_tokens.weight")),
    ("a language model, used as text encoder by many models", ("self_attn.q_proj.weight", "mlp.gate_proj.")),
)  # fmt: skip


def strip_containers(names: Collection[str]) -> dict[str, str]:
    """Map plain tensor names to the names in the file, without the prefixes that training tools add.

    A file that holds both `ema.` and `model.` weights is read as its `ema.` half.
    """
    plain = {name: name for name in names}
    for _ in range(4):
        if not plain or not all(name.startswith(CONTAINERS) for name in plain):
            return plain
        prefix = next(prefix for prefix in CONTAINERS if any(name.startswith(prefix) for name in plain))
        plain = {name[len(prefix) :]: full for name, full in plain.items() if name.startswith(prefix)}
    return plain


def weights_family(
    shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], table: ArchitectureTable = ARCHITECTURES
) -> str:
    """What a file is: the name of the architecture it says it is of, else what its tensor names tell."""
    said = table.in_metadata(metadata)
    return detect_family(shapes, shapes) if said is None else said.name


def detect_family(names: Collection[str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What a file with these tensor names is: our architecture's name, a few words for other families, or "".

    names may carry container prefixes; shapes: by the same names.
    """
    plain = strip_containers(names)
    text = "\n" + "\n".join(plain) + "\n" + "\n".join(names) + "\n"
    if any(mark in text for mark in _LORA_MARKS):
        return _lora_family(text)
    if "\npatch_embed.proj.weight\n" in text and ".attn_temporal." in text:
        return LINEAR_VIDEO.name
    patch = plain.get("x_embedder.proj.weight")
    if patch is not None and len(shapes.get(patch, ())) == 5 and "mlp.inverted_conv." in text:
        return "a SANA-Video model (NVlabs layout)"
    return next((name for name, marks in _FOREIGN if all(mark in text for mark in marks)), "")


def _lora_family(text: str) -> str:
    base = next((name for name, marks in _LORA_BASES if all(mark in text for mark in marks)), "")
    return f"a LoRA for {base}" if base else "a LoRA"
