"""Nodes that read prompts for SANA and SANA-Video: text encoder, both prompts at once, the instruction before them."""

import torch
from comfy_api.latest import io

from ..motion.errors import ConfigError
from ..motion.limits import MAX_DYNAMICS
from ..motion.text.instructions import INSTRUCTIONS, instruction_name, with_motion_score
from .host import checks, conditions, folders, progress
from .host.compat import inp, out, schema
from .host.text_under import text_under
from .text_encoders.prompts import refuse_unread

CATEGORY = "MotionBlocks/conditioning"
FOLDER, PART = "text_encoders", "text_encoder"
WEIGHT_DTYPES = ("default", "bf16", "fp32")


class LoadTextEncoder(io.ComfyNode):
    """Gemma-2 from models/text_encoders, or from a whole diffusers folder, as CLIP."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksLoadTextEncoder",
            display_name="Load Text Encoder (Gemma-2)",
            category="MotionBlocks/loaders",
            description="Loads Gemma-2-2B-it, which reads the prompts of SANA and SANA-Video, from models/"
            "text_encoders or from a whole diffusers folder in models/diffusion_models. Nothing is downloaded.",
            search_aliases=["gemma", "sana text encoder", "clip loader"],
            inputs=[
                inp(
                    io.Combo.Input, "text_encoder_name", options=folders.model_names(FOLDER, PART),
                    tooltip="A .safetensors file or a folder with Gemma-2-2B-it in it and its tokenizer.model beside "
                    "it; docs/models.md says where to get it.",
                ),
                inp(
                    io.Combo.Input, "instruction", options=list(INSTRUCTIONS), default="video",
                    tooltip="Text before every prompt, as in training. video: SANA-Video. image: SANA, and video "
                    "models made of SANA. none: prompts alone.",
                ),
                inp(
                    io.Combo.Input, "weight_dtype", options=list(WEIGHT_DTYPES), default="default",
                    tooltip="Number type the weights are kept in. default: bf16, or fp32 where the device has no bf16. "
                    "fp16 overflows in Gemma and is not offered.", advanced=True,
                ),
            ],
            outputs=[out(io.Clip, "clip", "For Encode Prompts (Motion) or CLIP Text Encode.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, text_encoder_name):
        return folders.check_model_name(FOLDER, text_encoder_name, PART)

    @classmethod
    def fingerprint_inputs(cls, text_encoder_name, instruction="video", weight_dtype="default"):
        stamp = folders.model_stamp(FOLDER, text_encoder_name, PART)
        return f"{text_encoder_name} {instruction} {weight_dtype} {stamp}"

    @classmethod
    def execute(cls, text_encoder_name, instruction="video", weight_dtype="default") -> io.NodeOutput:
        from ..motion.io.text_encoders.gemma import open_gemma
        from .models.limits import check_weights_fit
        from .text_encoders.gemma import load_gemma, text_dtype

        checks.choose("instruction", instruction, list(INSTRUCTIONS))
        checks.choose("weight_dtype", weight_dtype, WEIGHT_DTYPES)
        path = folders.model_path(FOLDER, text_encoder_name, PART)
        with torch.inference_mode(False):
            file, dtype = open_gemma(path), text_dtype(weight_dtype)
            check_weights_fit(path, file.source.num_bytes)
            on_bytes = progress.bytes_as_progress(progress.progress_step(), 0, file.source.num_bytes)
            clip = load_gemma(file, dtype, INSTRUCTIONS[instruction], on_bytes=on_bytes)
        text = _about(file, dtype, instruction)
        return io.NodeOutput(clip, ui=text_under(cls, text))


class EncodePrompts(io.ComfyNode):
    """Both prompts and the dynamics as the two conditionings of a motion model."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksEncodePrompts",
            display_name="Encode Prompts (Motion)",
            category=CATEGORY,
            description="Encodes both prompts and the motion strength for a motion model. With Gemma-2 the positive "
            "prompt stands behind the clip's instruction and the negative one alone, as SANA was trained.",
            search_aliases=["clip text encode", "motion score", "sana prompt", "dynamics"],
            inputs=[
                inp(io.Clip.Input, "clip", tooltip="From Load Text Encoder (Gemma-2) or Load Built-in Motion Model."),
                inp(
                    io.String.Input, "positive", multiline=True, dynamic_prompts=True, default="",
                    tooltip="What the video shows and how it moves. Up to about 300 tokens; capital letters are read "
                    "as small ones.",
                ),
                inp(
                    io.String.Input, "negative", multiline=True, dynamic_prompts=True, default="",
                    tooltip="What to avoid, such as jump cuts, jitter, deformed limbs. Without effect at cfg 1.0.",
                ),
                inp(
                    io.Int.Input, "dynamics", default=15, min=0, max=MAX_DYNAMICS, step=1,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How much moves: 0 nearly nothing, 19 most. Motion models with buckets take it as their "
                    "bucket; SANA-Video as its motion score, twice the value.",
                ),
                inp(
                    io.Boolean.Input, "motion_score", default=True,
                    tooltip="Write 'motion score: N.' behind the positive prompt, as SANA-Video was trained. Off for "
                    "SANA and MiraMo; the built-in motion vocabulary never gets it.",
                ),
            ],
            outputs=[
                out(io.Conditioning, "positive", "For Photo to Video, or the sampler."),
                out(io.Conditioning, "negative", "For Photo to Video, or the sampler."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, clip, positive, negative, dynamics=15, motion_score=True) -> io.NodeOutput:
        if not isinstance(dynamics, int):
            raise ConfigError(f"dynamics is {str(dynamics)[:60]}; a whole number from 0 to {MAX_DYNAMICS} is needed")
        checks.in_range("dynamics", dynamics, 0, MAX_DYNAMICS)
        if clip is None:
            raise ConfigError("clip is empty: the checkpoint that was loaded holds no text encoder; load one for it")
        wanted = motion_score and not _is_motion_vocabulary(clip)
        for name, text in (("positive", positive), ("negative", negative)):
            checks.whole_text(name, text)
        prompt = with_motion_score(positive, dynamics) if wanted else positive
        told = conditions.keys_of(motion_bucket_id=dynamics)
        encoded = [_encode(clip, prompt, told), _encode(clip, negative, told, alone=True)]
        refuse_unread(part for _, part in encoded[0])
        text = "\n".join(_remarks(clip, prompt, negative, dynamics, wanted))
        return io.NodeOutput(*encoded, ui=text_under(cls, text))


class SetInstruction(io.ComfyNode):
    """A copy of a Gemma-2 CLIP with another instruction before its prompts."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksSetInstruction",
            display_name="Set Instruction",
            category=CATEGORY,
            description="Puts a text of your own before the prompts that Gemma-2 reads, in place of the one SANA was "
            "trained with. It acts through attention alone: the network never sees its tokens.",
            search_aliases=["complex human instruction", "system prompt", "chi"],
            inputs=[
                inp(io.Clip.Input, "clip", tooltip="From Load Text Encoder (Gemma-2). It stays as it is."),
                inp(
                    io.String.Input, "instruction", multiline=True, default=INSTRUCTIONS["video"],
                    tooltip="The text before every positive prompt, kept exactly as typed. Empty: none.",
                ),
            ],
            outputs=[out(io.Clip, "clip", "The same text encoder with this instruction.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip, instruction) -> io.NodeOutput:
        from .text_encoders.gemma import with_instruction

        return io.NodeOutput(with_instruction(clip, checks.whole_text("instruction", instruction)))


def _about(file, dtype: torch.dtype, instruction: str) -> str:
    """What stands under the loader."""
    config = file.config
    lines = [
        f"Gemma-2: {config.num_layers} layers, text of width {config.hidden_size}, "
        f"{config.num_parameters / 1e9:.2f} billion parameters, {str(dtype).removeprefix('torch.')}",
        f"tokenizer: {file.tokenizer.place}",
        f"instruction before positive prompts: {instruction}",
        "for SANA, SANA-Video and video models made of SANA (docs/models.md, Gemma-2)",
    ]
    if not file.is_instructed:
        lines.append("base or instruction-tuned cannot be told from the weights; SANA was trained with gemma-2-2b-it")
    return "\n".join(lines)


def _is_motion_vocabulary(clip) -> bool:
    from .text_encoders.motion_vocabulary import MotionTokenizer

    return isinstance(getattr(clip, "tokenizer", None), MotionTokenizer)


def _encode(clip, text: str, told: dict, *, alone: bool = False):
    """CONDITIONING of one prompt. alone: without the instruction, where the CLIP has one."""
    from .text_encoders.gemma import is_gemma

    options = {"tokenizer_options": {"instruction": ""}} if alone and is_gemma(clip) else {}
    return clip.encode_from_tokens_scheduled(clip.tokenize(text, **options), add_dict=told)


def _remarks(clip, positive: str, negative: str, dynamics: int, scored: bool) -> list[str]:
    """What stands under the node: the dynamics, and what of the prompts the network will not see."""
    from .text_encoders.gemma import instruction_of, is_gemma

    lines = [f"dynamics {dynamics}" + (f", motion score: {2 * dynamics}" if scored else "")]
    if is_gemma(clip):
        lines.append(f"instruction before the positive prompt: {instruction_name(instruction_of(clip))}")
        for name, text, instruction in (("positive", positive, instruction_of(clip)), ("negative", negative, "")):
            cut = clip.tokenizer.num_cut(text, instruction)
            if cut:
                also = ", the motion score with them" if scored and name == "positive" else ""
                lines.append(f"{name} prompt too long: its last {cut} tokens are cut off{also}; shorten it")
    return lines
