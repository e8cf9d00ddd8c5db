"""A tiny Gemma-2 of the true architecture with seeded random weights, and a SentencePiece tokenizer trained in memory.

As `tokenizer.model` of Gemma: byte-pair, bytes for unknown characters, spaces kept, <pad> 0, <eos> 1, <bos> 2, <unk> 3.
"""

import io
import json
from pathlib import Path

import torch

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 24, 48, 3, 2, 1, 256, 512
TEXTS = [
    "a cat sleeping on a sunny windowsill, surrounded by red flowers", "a busy city street at dusk, glowing lamps",
    "given a user prompt, generate an enhanced prompt that provides detailed visual descriptions suitable for video",
    "if the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, motion",
    "waves roll onto the beach while the camera pans left. motion score: 30.", "User Prompt: A Small Dog Enhanced:",
]  # fmt: skip


def tokenizer_model(vocab_size: int = VOCAB) -> bytes:
    """The bytes of a tokenizer.model; the same every time."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4), model_writer=model, vocab_size=vocab_size, model_type="bpe",
        byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity",
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", bos_piece="<bos>", eos_piece="<eos>",
        hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def config_values(**changes) -> dict:
    """config.json of a tiny Gemma2Model."""
    values = {
        "architectures": ["Gemma2Model"], "model_type": "gemma2", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM,
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096,
        "max_position_embeddings": 8192,
    }  # fmt: skip
    return values | changes


def weights(*, hidden: int = HIDDEN, vocab: int = VOCAB, layers: int = LAYERS, dtype=torch.float32, prefix="", seed=5):
    """Seeded weights by the names of Gemma2Model. Queries are large enough for the soft cap to matter."""
    generator = torch.Generator().manual_seed(seed)
    inner, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    block = {
        "self_attn.q_proj": (inner, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, inner), "mlp.gate_proj": (INNER, hidden), "mlp.up_proj": (INNER, hidden),
        "mlp.down_proj": (hidden, INNER), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        "pre_feedforward_layernorm": (hidden,), "post_feedforward_layernorm": (hidden,),
    }  # fmt: skip
    shapes = {"embed_tokens.weight": (vocab, hidden), "norm.weight": (hidden,)}
    shapes |= {f"layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in block.items()}
    return {prefix + name: _values(name, shape, generator).to(dtype) for name, shape in shapes.items()}


def write_folder(folder: Path, *, prefix: str = "", dtype=torch.float32, hidden: int = HIDDEN, **config) -> Path:
    """A transformers folder: config.json, model.safetensors, tokenizer.model."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(prefix=prefix, dtype=dtype, hidden=hidden), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config_values(hidden_size=hidden, **config)))
    (folder / "tokenizer.model").write_bytes(tokenizer_model())
    return folder


def _values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return 0.3 * torch.randn(shape, generator=generator)
    scale = 2.0 if "q_proj" in name else 1.0
    return scale * shape[-1] ** -0.5 * torch.randn(shape, generator=generator)
