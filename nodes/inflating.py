"""The node that makes a video model of an image model: SANA with temporal attention, ready for the trainer."""

from comfy_api.latest import io

from ..motion.choices import INITS
from .host import checks, devices, folders, progress
from .host.compat import inp, out, schema
from .host.text_under import text_under

CATEGORY = "MotionBlocks/training"
PREFIX = f"{folders.WEIGHTS_FOLDER}/sana_inflated"
OBJECTIVES = ("t2v", "i2v_residual")
DTYPES = ("default", "bf16", "fp32", "fp16")


class InflateModel(io.ComfyNode):
    """SANA image weights → a video model, saved and handed on."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MotionBlocksInflateModel",
            display_name="Inflate Image Model",
            category=CATEGORY,
            description="Makes a video model of SANA image weights: temporal attention is added to every block, the "
            "file is saved, the model comes out for Train Motion Model. Until it is trained its frames do not belong "
            "together.",
            search_aliases=["sana", "image to video model", "temporal layers", "inflate"],
            inputs=[
                inp(
                    io.Combo.Input, "source_name", options=folders.model_names(folders.WEIGHTS_FOLDER),
                    tooltip="SANA 0.6B, 1.6B or 1.5 (512 or 1024 px) in models/diffusion_models: a diffusers folder or "
                    "a .safetensors file. See docs/models.md.",
                ),
                inp(
                    io.Combo.Input, "init", options=list(INITS), default="zero",
                    tooltip="zero: at first every frame is exactly the image model's. copy: starts as MiraMo's "
                    "published code does, and changes the pictures at once.",
                ),
                inp(
                    io.Combo.Input, "objective", options=list(OBJECTIVES), default="t2v",
                    tooltip="What it will learn. t2v: videos from text. i2v_residual: how a start photo moves.",
                ),
                inp(
                    io.Combo.Input, "weight_dtype", options=list(DTYPES), default="default", advanced=True,
                    tooltip="Number type of the saved weights. default: as they are; bf16 halves a file of fp32.",
                ),
                inp(
                    io.String.Input, "filename_prefix", default=PREFIX,
                    tooltip="Folder and name inside the output folder; a number is added and no file is replaced. "
                    "Files in diffusion_models are listed by Load Motion Model.",
                ),
            ],
            outputs=[
                out(io.Model, "model", "The video model, untrained, for Train Motion Model."),
                out(io.String, "path", "Full path of the saved file."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, source_name):
        return folders.check_model_name(folders.WEIGHTS_FOLDER, source_name)

    @classmethod
    def fingerprint_inputs(cls, source_name, **choices):
        return f"{source_name} {sorted(choices.items())} {folders.model_stamp(folders.WEIGHTS_FOLDER, source_name)}"

    @classmethod
    def execute(
        cls, source_name, init="zero", objective="t2v", weight_dtype="default", filename_prefix=PREFIX
    ) -> io.NodeOutput:
        import torch

        from .models.linear_video import build_patcher
        from .training_run.folders import numbered_output

        for name, value, options in (("init", init, INITS), ("objective", objective, OBJECTIVES)):
            checks.choose(name, value, options)
        dtype = devices.WEIGHT_DTYPES[checks.choose("weight_dtype", weight_dtype, DTYPES)]
        target = numbered_output(filename_prefix)
        with torch.inference_mode(False):  # else its weights could not be trained
            source = folders.model_path(folders.WEIGHTS_FOLDER, source_name)
            file, row, path = _inflate(source, target, init, objective, dtype)
            model = build_patcher(file, path)
        text = _describe(file, row, path)
        return io.NodeOutput(model, path, ui=text_under(cls, text))


def _inflate(source_path: str, target, init: str, objective: str, dtype):
    """The video model in memory, the row of docs/models.md it came from, and the path it was saved under."""
    from ..motion.io.files.atomic import make_folder, new_output, try_writing
    from ..motion.io.networks.linear_video import save_linear_video
    from ..motion.io.networks.sana import inflated_file, open_sana
    from .models.limits import check_weights_fit

    source, layout = open_sana(source_path)
    check_weights_fit(source_path, 2 * source.num_bytes)  # as read, and as inflated
    try_writing(make_folder(target.parent))
    on_step = progress.progress_step()
    reading = progress.bytes_as_progress(on_step, 0, 2 * source.num_bytes)
    file = inflated_file(source, layout, init=init, objective=objective, dtype=dtype, on_bytes=reading)
    size = sum(tensor.nbytes for tensor in file.state_dict.values())
    with new_output(target) as output:
        writing = progress.bytes_as_progress(on_step, size, 2 * size)
        save_linear_video(output.temp, file.spec, file.state_dict, extra_metadata=file.metadata, on_bytes=writing)
    return file, source.row, str(output.path)


def _describe(file, row: str, path: str) -> str:
    """What was made, with which VAE and text encoder it goes, and what comes next."""
    tensors = file.state_dict.values()
    count, size = (sum(values) for values in zip(*((t.numel(), t.nbytes) for t in tensors)))
    config, dtype = file.spec.config, str(next(iter(tensors)).dtype).removeprefix("torch.")
    return "\n".join((
        f"{row} made a video model ({file.spec.objective}): {count:,} parameters, {size / 2**30:.2f} GiB, {dtype}",
        f"{config.num_layers} blocks {config.width} wide; {file.metadata['inflation']}",
        "VAE: DC-AE. Text encoder: Gemma-2. (rows of docs/models.md)",
        f"saved: {path}",
        "untrained: connect it to Train Motion Model",
    ))  # fmt: skip
