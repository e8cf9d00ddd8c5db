"""Keys and values of the prompts, kept for one sampling run of the host.

The host makes a new text tensor at every step, at addresses it uses again, so neither tells one prompt from another.
What it does give is one id for each condition of a run; the cache lives exactly as long as the run.
"""

from comfy.patcher_extension import WrappersMP

from ...motion.models.text_cache import TextCache

SLOT = "motionblocks_texts"
ADAPTERS = "motionblocks_adapters"  # key of the wrappers that hold adapters on our networks, which change no text
MAY_CHANGE_TEXTS = (WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL,
                    WrappersMP.DIFFUSION_MODEL)  # fmt: skip


def keep_texts_for_a_run(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: a fresh cache for this run, gone when it ends, however it ends."""
    guider = executor.class_obj
    options = guider.model_options.setdefault("transformer_options", {})
    if not texts_are_steady(guider):
        return executor(*args, **kwargs)
    options[SLOT] = TextCache()
    try:
        return executor(*args, **kwargs)
    finally:
        options.pop(SLOT, None)


def texts_are_steady(guider) -> bool:
    """Whether no other node can make the text or its layers differ between two steps under one id.

    Such nodes are weight hooks on a prompt, and wrappers around the calls through which the text goes.
    """
    hooked = any(condition.get("hooks") is not None for given in guider.conds.values() for condition in given)
    options = guider.model_options
    wrappers = options["transformer_options"].get("wrappers", {})
    wrapped = any(calls for kind in MAY_CHANGE_TEXTS for key, calls in wrappers.get(kind, {}).items()
                  if key != ADAPTERS)  # fmt: skip
    replaced = {"model_function_wrapper", "sampler_calc_cond_batch_function"} & set(options)
    return not (hooked or wrapped or replaced)


def texts_of_a_run(options: dict, rows: int) -> dict:
    """The network's arguments text_cache and text_keys for a batch of `rows`; none where no run keeps texts.

    A key is the condition's id and the row within it: a condition may hold a batch of texts.
    """
    cache, ids = options.get(SLOT), options.get("uuids")
    if not isinstance(cache, TextCache) or not ids or rows % len(ids):
        return {}
    each = rows // len(ids)
    return {"text_cache": cache, "text_keys": tuple((name, row) for name in ids for row in range(each))}
