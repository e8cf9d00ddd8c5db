"""What our nodes put into CONDITIONING: core nodes keep it, names of 0.1 are read, what was set later counts."""

import pytest
import tiny
import torch
from node_helpers import conditioning_set_values
from pack.nodes.host.conditions import KEYS, WITHOUT_PREFIX, keys_of, read, tell
from test_inhost_sampling import ksampler, model  # noqa: F401

FIRST = tiny.first_latent()
THROUGH = {  # a core node, and the CONDITIONING that goes into it under which name
    "ConditioningSetArea": ("conditioning", {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0}),
    "ConditioningSetMask": ("conditioning", {"mask": torch.ones(1, 8, 8), "strength": 1.0, "set_cond_area": "default"}),
    "ConditioningSetTimestepRange": ("conditioning", {"start": 0.1, "end": 0.9}),
    "ConditioningZeroOut": ("conditioning", {}),
    "ConditioningAverage": ("conditioning_to", {"conditioning_from": tiny.prompt(9, bucket=None),
                                                "conditioning_to_strength": 0.5}),
    "ConditioningConcat": ("conditioning_to", {"conditioning_from": tiny.prompt(9, bucket=None)}),
    "ConditioningCombine": ("conditioning_1", {"conditioning_2": tiny.prompt(9, bucket=None)}),
}  # fmt: skip


def told(seed=1, **more):
    """A prompt that our nodes made ready."""
    given = {"first_latent": FIRST, "first_latent_space": "svd", "motion_bucket_id": 7, "longer": "same move",
             "words": ("zoom in",)} | more  # fmt: skip
    return tell(tiny.prompt(seed, bucket=None), **given)


@pytest.mark.parametrize("node", THROUGH)
def test_core_nodes_hand_on_what_a_prompt_was_told(core, node):
    name, more = THROUGH[node]
    before = told()
    out = core(node, **{name: before}, **more)[0]
    found, given = read(out[0][1]), read(before[0][1])
    assert vars(found) == vars(given) and found.words == ("zoom in",) and found.motion_bucket_id == 7


@pytest.mark.parametrize("longer", [None, "same move"])
def test_names_of_0_1_and_ours_make_one_video_bit_for_bit(core, model, longer):  # noqa: F811
    given = {"first_latent": FIRST, "first_latent_space": "svd", "motion_bucket_id": 7, "longer": longer}
    given = {name: value for name, value in given.items() if value is not None}
    old, new = (
        [make(tiny.prompt(seed, bucket=None)) for seed in (1, 2)]
        for make in (lambda prompt: conditioning_set_values(prompt, given), lambda prompt: tell(prompt, **given))
    )
    assert not set(old[0][0][1]) & set(KEYS.values()) and not set(new[0][0][1]) & set(WITHOUT_PREFIX)
    videos = [ksampler(core, model, positive=positive, negative=negative) for positive, negative in (old, new)]
    assert torch.equal(*videos)
    weaker = ksampler(core, model, positive=tell(new[0], motion_bucket_id=0), negative=new[1])
    assert not torch.equal(weaker, videos[0])


def test_what_was_set_later_counts_whatever_its_name(core, model):  # noqa: F811
    ours = told()
    theirs = conditioning_set_values(ours, {"motion_bucket_id": 3})
    assert read(theirs[0][1]).motion_bucket_id == 3 and read(ours[0][1]).motion_bucket_id == 7
    again = tell(theirs, motion_bucket_id=11)
    assert read(again[0][1]).motion_bucket_id == 11 and "motion_bucket_id" not in again[0][1]
    assert read(theirs[0][1]).motion_bucket_id == 3, "the given prompt stays"
    with pytest.raises(ValueError, match="dynamics is 127"):  # as core's SVD node sets it
        ksampler(core, model, positive=conditioning_set_values(ours, {"motion_bucket_id": 127}), negative=told(2))


def test_none_says_nothing():
    prompt = told()
    assert tell(prompt, longer=None) == prompt and keys_of(longer=None) == {}
    assert read(conditioning_set_values(prompt, {"first_latent": None})[0][1]).first_latent is FIRST
    assert vars(read({})) == {name: () if name == "words" else None for name in KEYS}


def test_one_prompt_with_and_one_without_the_start_image_are_refused_under_either_name(core, model):  # noqa: F811
    bare = tiny.prompt(2)
    for started in (told(), conditioning_set_values(tiny.prompt(1), {"first_latent": FIRST})):
        with pytest.raises(ValueError, match="one prompt has the start image and another has not"):
            ksampler(core, model, positive=started, negative=bare)


def test_nodes_write_prefixed_keys_alone(core, ours):
    _, clip, vae = ours["LoadBuiltin"].execute("motionblocks-tiny").args
    prompts = ours["EncodePrompts"].execute(clip, "zoom in", "", 5).args
    assert read(prompts[0][0][1]).motion_bucket_id == 5 and read(prompts[0][0][1]).words == ("zoom in",)
    positive, negative, *_ = ours["ImageToVideo"].execute(
        *prompts, vae, torch.rand(1, 32, 48, 3), 4, 9, 1, "same move", "crop"
    ).args
    for prompt in (*prompts, positive, negative):
        strange = {key for key in prompt[0][1] if not key.startswith("motionblocks_")}
        assert strange <= {"attention_mask", "pooled_output"}
    assert read(positive[0][1]).longer == "same move" and read(positive[0][1]).motion_bucket_id == 9
