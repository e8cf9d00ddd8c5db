"""The small Wan models that come with the pack: the host's own Wan, with words and limits of their own.

To the host, and to every node that takes Wan, they are Wan; what is ours travels on the MODEL beside the weights.
"""

import comfy.sd
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

from ...motion.errors import ConfigError
from ...motion.io.networks.builtin_names import VAE
from ...motion.io.networks.builtin_wan import read_builtin_wan
from ...motion.io.vaes.small_vae import read_small_vae
from ...motion.scene_model import check_drawn
from ...motion.sequence.trained_as import TrainedAs
from ..text_encoders.prompts import settle_prompts
from ..text_encoders.scene_words import build_scene_clip
from ..vaes_on_socket.small import SmallMotionVAE
from .as_trained import say, too_strong
from .native_wan import SCENE, SPACE, find_native_wan
from .pose_sequence import LENGTH, TRAINED
from .prefix import KEY as PREFIX

START_IMAGE = "concat_latent_image"  # the host's key of a prompt
MUCH = 4.0  # cfg above which colours burn


def load_scene(path: str):
    """(MODEL, CLIP, VAE) of a file: the host's WAN21, sampled with the file's shift. Call it outside inference mode.

    Raises CheckpointError.
    """
    file = read_builtin_wan(path)
    model = comfy.sd.load_diffusion_model(path)
    (model,) = ModelSamplingSD3().patch(model, file.spec.sampling.shift)
    model.set_attachments(SCENE, file.spec)
    sequences = TrainedAs.of(file.metadata)
    if sequences is not None:
        model.set_attachments(TRAINED, sequences.to_metadata())
        model.set_attachments(LENGTH, file.spec.sampling.num_frames)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, SCENE, sample_as_drawn)
    clip = build_scene_clip(file.vocabulary, file.spec.config.caption_channels)
    return model, clip, SmallMotionVAE(read_small_vae(VAE))


def sample_as_drawn(executor, noise, *args, **kwargs):
    """OUTER_SAMPLE wrapper: refuse what these models cannot draw, and settle the prompts.

    Raises ShapeError for other sizes than they were trained on, ConfigError for prompts, and where the start image that
    a model reads is missing.
    """
    guider = executor.class_obj
    frames, height, width = noise.shape[-3:]
    cell, group = SPACE.spatial_ratio, SPACE.temporal_ratio
    check_drawn((frames - 1) * group + 1, width * cell, height * cell)
    told = settle_prompts(guider.conds, one_motion=False)
    wan, positive = find_native_wan(guider.model_patcher), guider.conds.get("positive", ())
    follows, is_behind = (guider.model_patcher.get_attachment(key) is not None for key in (TRAINED, PREFIX))
    if follows and not is_behind:
        raise ConfigError("this model has a picture follow poses, and has none; connect Pose Video before the sampler, "
                          "or load motionblocks-wan-i2v")
    if wan is not None and wan.starts_from_image and all(part.get(START_IMAGE) is None for part in positive):
        raise ConfigError(
            "this model goes on from a picture, and the positive prompt has none; connect Photo to Video "
            "(MotionBlocks) before the sampler, or load motionblocks-wan"
        )
    strong = too_strong(guider)
    if strong is not None and strong > MUCH:
        told.append(f"cfg is {strong:g}; this model was made for about 2, and colours burn above {MUCH:g}")
    say(told)
    return executor(noise, *args, **kwargs)
