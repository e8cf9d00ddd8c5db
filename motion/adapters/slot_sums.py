"""Several adapters in the places of a block: their answers, each times its weight, as one.

In form "delta", ours, answers beside attention are summed. What stands instead of text, or weighs pairs of tokens,
fills up with what the model does by itself where the weights of those that answered come to less than 1:
Σ w·answer + max(0, 1 - Σ w)·own. So weight 0 is the model, half is half way, and adapters whose weights come to 1
replace it together. In form "paper" nothing fills up: text is Σ w·answer, attention along the frames
Σ w·(own + answer). Where the weights come to 1 the two agree. Source of the second: MIVA, arXiv 2512.20000.
Along the frames an answer may be `Whole`, own + answer in one: Σ w·whole + (1 - Σ w)·own is the same sum as above, and
where the weights come to 1 the layer's own is not computed at all.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..choices import DELTA, PAPER
from ..errors import ConfigError
from ..models.block_adapters import BlockAdapters, PairWeights, Whole

Parts = Sequence[tuple[float | Tensor, Callable]]  # weights: numbers, or (b or 1, t, n)


def summed_slots(
    weighted: Sequence[tuple[float | Tensor, BlockAdapters]], form: str = DELTA
) -> BlockAdapters | None:
    """What stands in the places for all of these together; None where there are none. form: one of FORMS."""
    if not weighted:
        return None
    made, is_paper = {}, form == PAPER
    for slot, combine in (("beside_self_attention", _beside),
                          ("temporal", _along_frames_alone if is_paper else _along_frames),
                          ("instead_of_text", _instead_alone if is_paper else _instead),
                          ("attention_bias", _bias)):  # fmt: skip
        parts = [(weight, getattr(slots, slot)) for weight, slots in weighted if getattr(slots, slot) is not None]
        made[slot] = combine(parts) if parts else None
    return BlockAdapters(**made)


def _answers(parts: Parts, site) -> list[tuple[float | Tensor, object]]:
    """Weights and answers of those that do something in this block."""
    asked = ((weight, adapter(site)) for weight, adapter in parts)
    return [(weight, answer) for weight, answer in asked if answer is not None]


def _beside(parts: Parts) -> Callable:
    def answer(site) -> Tensor | None:
        return _sum([_times(weight, more) for weight, more in _answers(parts, site)])

    return answer


def _along_frames(parts: Parts) -> Callable:
    def answer(site) -> Tensor | Whole | None:
        found = _answers(parts, site)
        whole = [(weight, value.tokens) for weight, value in found if isinstance(value, Whole)]
        beside = [_times(weight, value) for weight, value in found if not isinstance(value, Whole)]
        if not whole:
            return _sum(beside)
        rest = 1 - sum(weight for weight, _ in whole)
        own = [_times(rest, site.result)] if isinstance(rest, Tensor) or rest else []
        return Whole(_sum([_times(weight, value) for weight, value in whole] + own + beside))

    return answer


def _along_frames_alone(parts: Parts) -> Callable:
    """Σ w·(own + answer) altogether, so that nothing fills up."""

    def answer(site) -> Whole | None:
        found = _answers(parts, site)
        wholes = (value.tokens if isinstance(value, Whole) else site.result + value for _, value in found)
        return Whole(_sum([_times(weight, whole) for (weight, _), whole in zip(found, wholes)])) if found else None

    return answer


def _instead_alone(parts: Parts) -> Callable:
    def answer(site) -> Tensor | None:
        return _sum([_times(weight, value) for weight, value in _answers(parts, site)])

    return answer


def _instead(parts: Parts) -> Callable:
    def answer(site) -> Tensor | None:
        found = _answers(parts, site)
        if not found:
            return None
        rest = _rest([weight for weight, _ in found])
        own = [_times(rest, site.attention(site.tokens, site.around))] if isinstance(rest, Tensor) or rest else []
        return _sum([_times(weight, more) for weight, more in found] + own)

    return answer


def _bias(parts: Parts) -> Callable:
    least = min(float(torch.as_tensor(weight).min()) for weight, _ in parts)
    if least < 0:
        raise ConfigError(f"an adapter that weighs pairs of tokens has weight {least:g}; 0 or more is needed there")

    def answer(site) -> PairWeights | None:
        found = _answers(parts, site)
        if not found:
            return None
        rest = _rest([weight for weight, _ in found])
        queries, keys = [_times(weight, pair.query) for weight, pair in found], [pair.key for _, pair in found]
        if isinstance(rest, Tensor) or rest:
            alone = torch.ones_like(keys[0][..., :1])
            queries.append(_times(rest, alone))
            keys.append(alone)
        return PairWeights(torch.cat(queries, dim=-1), torch.cat(keys, dim=-1))

    return answer


def _rest(weights: list[float | Tensor]) -> float | Tensor:
    """max(0, 1 - Σ weights)."""
    total = sum(weights)
    return (1 - total).clamp_min(0) if isinstance(total, Tensor) else max(0.0, 1 - total)


def _times(weight: float | Tensor, values: Tensor) -> Tensor:
    """values (b, t, n, d), weighed."""
    if isinstance(weight, float) and weight == 1.0:
        return values
    return weight * values if isinstance(weight, float) else weight.to(values).unsqueeze(-1) * values


def _sum(values: list[Tensor]) -> Tensor | None:
    return None if not values else sum(values[1:], start=values[0])
