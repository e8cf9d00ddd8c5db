"""How tools name the tensors of a LoRA: which layer, which part of it; and the adapters that are none.

Read are the names of this pack, kohya's scripts, PEFT and diffusers; a file may mix them.
"""

from collections.abc import Collection

_PARTS = {
    "down": (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight"),
    "up": (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight"),
    "alpha": (".alpha",),
}
_SUFFIXES = {suffix: part for part, suffixes in _PARTS.items() for suffix in suffixes}
_ROOTS = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "unet.")
FLAT = "lora_unet_"  # kohya's: a layer's name follows with _ for each dot
NAMING = "<layer>.lora_down.weight, .lora_up.weight and .alpha (kohya's and this pack's), or <layer>.lora_A.weight " \
    "and .lora_B.weight (PEFT, diffusers)"
_OTHER_KINDS = (  # a kind of adapter, and how names of its tensors end; all of a row must occur
    ("a DoRA", (".dora_scale",)),
    ("a DoRA", (".lora_magnitude_vector",)),
    ("a DoRA", (".lora_magnitude_vector.weight",)),
    ("a DoRA", (".lora_magnitude_vector.default.weight",)),
    ("a LoHa", (".hada_w1_a",)),
    ("a LoKr", (".lokr_w1",)),
    ("a LoKr", (".lokr_w1_a",)),
    ("an OFT or BOFT", (".oft_blocks",)),
    ("an OFT", (".oft_diag",)),
    ("an OFT", (".oft_R.weight",)),
    ("an OFT", (".oft_R.default.weight",)),
    ("a GLoRA", (".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight")),
    ("a LoRA with a third matrix a layer (Tucker, lora_mid)", (".lora_mid.weight",)),
    ("a LoRA that also changes biases (lora_bias)", (".lora_B.bias",)),
    ("a LoRA with whole differences of weights (diff)", (".diff",)),
    ("a LoRA with whole differences of biases (diff_b)", (".diff_b",)),
)


def parts_by_layer(names: Collection[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The tensors of each layer, and the names that cannot be used.

    Returns ({layer: {"down": name, "up": name, and where there is one "alpha": name}}, odd names). A layer is called
    what the module calls it, or `lora_unet_…` with its dots lost. Odd are unknown names, layers without both matrices,
    and second tensors for one part.
    """
    layers: dict[str, dict[str, str]] = {}
    odd = []
    for name in names:
        suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
        parts = layers.setdefault(_layer(name.removesuffix(suffix)), {}) if suffix else {}
        if not suffix or _SUFFIXES[suffix] in parts:
            odd.append(name)
        else:
            parts[_SUFFIXES[suffix]] = name
    for layer in [layer for layer, parts in layers.items() if not {"down", "up"} <= set(parts)]:
        odd += layers.pop(layer).values()
    return layers, odd


def other_kind(names: Collection[str]) -> str:
    """What an adapter is that is not a plain LoRA, in words; "" when nothing says so."""
    return next((kind for kind, ends in _OTHER_KINDS
                 if all(any(name.endswith(end) for name in names) for end in ends)), "")  # fmt: skip


def modules_of(layers: Collection[str], modules: Collection[str]) -> dict[str, list[str]]:
    """Which modules each layer of a file may mean: one, none when there is no such module, or several."""
    flat: dict[str, list[str]] = {}
    for name in modules:
        flat.setdefault(FLAT + name.replace(".", "_"), []).append(name)
    return {layer: [layer] if layer in modules else flat.get(layer, []) for layer in layers}


def _layer(name: str) -> str:
    root = next((root for root in _ROOTS if name.startswith(root)), "")
    inner = name.removeprefix(root)
    return _layer(inner) if root == _ROOTS[0] else inner
