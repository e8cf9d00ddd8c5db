"""Prompts as the pipelines of SANA and SANA-Video encode them, with a tiny Gemma-2 of transformers in eager attention.

Folders: gemma-2-2b-it (weights in float32), half (the same in bfloat16), uncapped (its config.json without soft cap),
json (tokenizer.json as transformers writes it). truth.safetensors: <case>.<prompt>.<what>; prompts.json: the prompts.
"""

import json
from pathlib import Path

import tiny_gemma
import torch
from diffusers import SanaPipeline, SanaVideoPipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer, Gemma2Model

PROMPTS = ["A Cat Sleeping", "  waves on a beach, (foam:1.2)\nand π  ", "a red lamp glows. motion score: 30.",
           "glowing street lamps " * 120]  # fmt: skip
TOKENIZER = {"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>",
             "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}  # fmt: skip


def make(folder: Path) -> None:
    places = {
        "capped": tiny_gemma.write_folder(folder / "gemma-2-2b-it"),
        "half": tiny_gemma.write_folder(folder / "half", dtype=torch.bfloat16),
        "uncapped": tiny_gemma.write_folder(folder / "uncapped", attn_logit_softcapping=None),
    }
    for place in places.values():
        (place / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    tokenizer = AutoTokenizer.from_pretrained(places["capped"])
    tokenizer.save_pretrained(folder / "json")
    truth = {}
    for case, place in places.items():
        encoder = Gemma2Model.from_pretrained(place, dtype=torch.float32, attn_implementation="eager").eval()
        truth |= {f"{case}.video.{name}": value for name, value in encoded(SanaVideoPipeline, tokenizer, encoder)}
        if case == "capped":
            truth |= {f"{case}.image.{name}": value for name, value in encoded(SanaPipeline, tokenizer, encoder)}
    save_file({name: value.contiguous() for name, value in truth.items()}, folder / "truth.safetensors")
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))


@torch.no_grad()
def encoded(pipeline, tokenizer, encoder):
    """What encode_prompt gives for each prompt, as positive and as negative."""
    import inspect

    pipe = pipeline(tokenizer=tokenizer, text_encoder=encoder, vae=None, transformer=None, scheduler=None)
    instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
    for number, prompt in enumerate(PROMPTS):
        found = pipe.encode_prompt(
            prompt, negative_prompt=prompt, device=torch.device("cpu"), complex_human_instruction=instruction
        )
        for name, value in zip(("embeds", "mask", "negative", "negative_mask"), found, strict=True):
            yield f"{number}.{name}", value.clone()
