"""Save Prompts with the host's own UMT5, tiny: what it saved is bit for bit what CLIP Text Encode gives."""

import sys
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.wan
import pytest
import torch
from pack.motion.data.clips import Clip, ClipCollection
from pack.motion.errors import ConfigError
from pack.motion.io.text_encoders.prompts_file import open_prompts

sys.path.append(str(Path(__file__).resolve().parents[2] / "helpers"))
import tiny_gemma  # noqa: E402

SIZES = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 600}
TEXTS = ("a cat sleeping on a sunny windowsill", "waves roll onto the (beach:1.3)")


@pytest.fixture(scope="module")
def umt5():
    """Wan's text encoder as the host builds it, of tiny sizes, weights drawn, its tokenizer trained in memory."""
    with torch.inference_mode(False):
        target = comfy.supported_models_base.ClipTarget(
            comfy.text_encoders.wan.WanT5Tokenizer, comfy.text_encoders.wan.te()
        )
        clip = comfy.sd.CLIP(
            target, tokenizer_data={"spiece_model": tiny_gemma.tokenizer_model()},
            model_options={"dtype": torch.float32, "model_name": "umt5xxl", "umt5xxl_model_config": SIZES},
        )  # fmt: skip
        draw = torch.Generator().manual_seed(0)
        for value in clip.cond_stage_model.parameters():
            value.data.copy_(torch.randn(value.shape, generator=draw) / 4)
    return clip


def clips_of(*captions):
    made = (Clip(f"{n}.mp4", text, 4, 8.0, 8, 8, str(n), lambda indices: torch.zeros(len(indices), 3, 8, 8))
            for n, text in enumerate(captions))  # fmt: skip
    return ClipCollection(tuple(made))


def test_what_is_saved_is_what_clip_text_encode_gives_padding_included(ours, core, umt5, tmp_path):
    text = f"{TEXTS[0]}\n\n  {TEXTS[1]} \n{TEXTS[0]}"
    (path,) = ours["SavePrompts"].execute(umt5, text, "motionblocks/prompts/a", clips_of("", "from a clip")).args
    file = open_prompts(path)
    assert file.texts == ("", *TEXTS, "from a clip") and (file.encoder, file.width) == ("umt5xxl", 32)
    assert path.endswith("output/motionblocks/prompts/a_00001.safetensors")
    saved = file.read(file.texts)
    for prompt in file.texts:
        truth = core("CLIPTextEncode", clip=umt5, text=prompt)[0][0][0]
        assert truth.shape == (1, 512, 32) and torch.equal(saved[prompt].full_context, truth[0])
        assert len(saved[prompt].context) < 60 and saved[prompt].attention_mask is None
    assert len(saved[""].context) == 1
    assert ours["SavePrompts"].execute(umt5, "", "motionblocks/prompts/a").args[0].endswith("a_00002.safetensors")


def test_a_motion_vocabulary_is_saved_with_mask_and_pooled_text_and_unknown_words_are_refused(ours, core):
    _, clip, _ = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    (path,) = ours["SavePrompts"].execute(clip, "pan left", "words").args
    saved = open_prompts(path).read(["pan left"])["pan left"]
    truth = core("CLIPTextEncode", clip=clip, text="pan left")[0][0]
    assert torch.equal(saved.pooled, truth[1]["pooled_output"][0]) and saved.attention_mask.sum() >= 1
    assert torch.equal(saved.full_context, truth[0][0])
    with pytest.raises(ConfigError, match="blurry"):
        ours["SavePrompts"].execute(clip, "blurry", "words")


def test_cancel_leaves_no_file_and_wrong_inputs_are_refused(ours, umt5):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ours["SavePrompts"].execute(umt5, TEXTS[0], "cancelled/a")
    assert not list((Path(ours_output()) / "cancelled").iterdir())
    with pytest.raises(ConfigError, match="clip is empty"):
        ours["SavePrompts"].execute(None, TEXTS[0], "a")
    with pytest.raises(ConfigError, match="clips is str; connect the clips output of Load Clips"):
        ours["SavePrompts"].execute(umt5, TEXTS[0], "a", "clips")
    with pytest.raises(ConfigError, match="filename_prefix"):
        ours["SavePrompts"].execute(umt5, TEXTS[0], "../a")


def ours_output():
    import folder_paths

    return folder_paths.get_output_directory()
