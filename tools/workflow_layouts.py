"""What the page of each shipped workflow shows beside its nodes: groups, their order, and notes. Data only."""

GREEN, BLUE, PURPLE, YELLOW, GREY = "#8a8", "#3f789e", "#a1309b", "#b58b2a", "#888"

# Sizes that the frontend cannot guess: room for a preview or for text.
NODE_SIZES = {
    "MotionBlocksSamplePhoto": (320, 330),
    "CLIPTextEncode": (320, 110),
    "SaveVideo": (480, 460),
    "MotionBlocksDCTInit": (320, 620),
    "MotionBlocksMeasureDynamics": (480, 220),
    "MotionBlocksCompareVideos": (560, 900),
    "MotionBlocksImageToVideo": (320, 270),
    "VAEDecode": (220, 0),
    "MotionBlocksLoadClips": (340, 620),
    "MotionBlocksTrainMotionModel": (420, 1480),
}
NODE_WIDTH = 320
SIZES_IN = {  # their videos are tall
    "compare_dynamics": {"SaveVideo": (420, 900)},
    "move_the_subject": {"SaveVideo": (480, 720), "MotionBlocksSamplePhoto": (320, 480)},
}


def note(title, text, size):
    """Describe a Markdown note that is placed like a node; size is (width, height)."""
    return {"note": text.strip(), "title": title, "size": list(size)}


def group(title, color, *columns):
    """Describe a group: its columns hold node ids and notes, from top to bottom."""
    return {"title": title, "color": color, "columns": [list(column) for column in columns]}


START_NOTE = note(
    "Start here",
    """
# Animate a photo

Press **Run**. Nothing is downloaded: the model is part of the pack, and a CPU is enough.

1. **Your own photo**: replace *Photo* by **Load Image** and draw its IMAGE output to *start_image*.
   Any shape, sides up to 4096.
2. **What the camera does**: plain words, e.g. `pan left`, `zoom in`, `rotate right`, `still`.
   A word the model does not know is refused, with a list of those it does.
3. **dynamics**, 0 to 19, says how much.

The video has the size of the photo (an odd side grows by one pixel).
""",
    (400, 330),
)

SAMPLE_NOTE = note(
    "Good to know",
    """
**cfg stays at 1.0.** This small model was made without it; more makes the motion worse.

Any sampler works, and more than 8 steps change little. So does a new seed: this model moves the picture,
it does not invent objects.

Decode with the **vae of *Photo to video***, not with the loader's: only that one knows your photo and moves it
at its own size.
""",
    (400, 220),
)

DYNAMICS_NOTE = note(
    "What to look at",
    """
# The dynamics slider

The same photo, words and seed three times; only **dynamics** differs: 1, 10 and 19.
They come out one above the other in **one video**: hardly a drift, a calm pan, a fast pan.

*Frames and curves side by side* draws them as rows of frames and as curves: how far the picture has moved,
how its colours drift, whether it flickers, how sharp it stays.

- Another motion: change the text to `zoom in` or `rotate left`.
- Other steps of the slider: change *dynamics* in the three rows.
- Your photo: replace *Photo* by **Load Image**.
""",
    (690, 260),
)

NOISE_NOTE = note(
    "What to look at",
    """
# DCTInit against plain noise

Both rows share the photo, the words, the steps and the **seed**. Left in the video: plain noise.
Right: noise whose lowest frequencies come from the photo's own latent.

*DCT noise* says after a run how many coefficients of the latent grid it kept. On this model's 8×8 grid the usual 0.23
keeps very few; raise **keep** to see more.

With the built-in model the two are close: it was trained almost up to pure noise, so there is no gap
for DCTInit to close.
""",
    (690, 250),
)

TRAIN_NOTE = note(
    "Start here",
    """
# Teach the model a motion

Press **Run**. On a CPU the whole takes about a minute or two; nothing is downloaded. The built-in model knows pan,
zoom, rotate and still. The ten clips that come with the pack show something else: a picture that is **squashed and
stretched like jelly**. After the training your photo does it too.

The video shows the same photo, words and seed twice: **left before, right after** the training. The node *Train a LoRA*
shows the loss curve and samples while it runs.

1. **Your own clips**: make a folder with videos in ComfyUI's `input` folder, refresh (key R), choose it in *Ten clips*.
   Captions: `name.txt` beside `name.mp4`, in words the model knows; an empty one is fine.
2. **Better**: more *steps*; 16 frames with a stride that fits your clips.
3. **Cancel** is safe. To go on, set *resume_from* to `latest`.

The LoRA is saved as `output/loras/jelly_00001.safetensors` and loads in the core node **Load LoRA (Model only)**.
""",
    (520, 440),
)

SUBJECT_NOTE = note(
    "Start here",
    """
# Move what is in the photo

Press **Run**. The larger built-in model moves the subject of a photo, not only the camera. It looks for what stands
out most: a head, a cup, a boat on water.

Words for the subject: `swing`, `bounce`, `orbit`, `spin`, `slide left`, `slide right`, `slide up`, `slide down`.
For parts of a picture: `clouds` (a sky at the top), `waterfall`; for all of it: `sway`, `pulse`, and every camera word.

- **Your photo**: replace *Photo* by **Load Image**. One clear subject before a calm background works best.
- **dynamics** says how far it goes. Above 12 faces and straight lines bend.

It does not invent: no rain, no walking. A subject takes its surroundings along like a rubber sheet.
""",
    (400, 400),
)

LAYOUTS = {
    "animate_photo": [
        [group("Read me", GREY, [START_NOTE, SAMPLE_NOTE])],
        [group("Model and photo", GREEN, ["1", "2"])],
        [group("Motion", BLUE, ["3", "4", "5"])],
        [group("Sample and decode", PURPLE, ["6", "7", "8"])],
        [group("Video", YELLOW, ["9"]), group("How much it moves", GREY, ["10"])],
    ],
    "move_the_subject": [
        [group("Read me", GREY, [SUBJECT_NOTE])],
        [group("Model and photo", GREEN, ["1", "2"])],
        [group("Motion", BLUE, ["3", "4", "5"])],
        [group("Sample and decode", PURPLE, ["6", "7", "8"])],
        [group("Video", YELLOW, ["9"]), group("How much it moves", GREY, ["10"])],
    ],
    "compare_dynamics": [
        [group("Read me", GREY, [DYNAMICS_NOTE]), group("Model, photo and words", GREEN, ["1", "2"], ["3", "4"])],
        [
            group("Dynamics 1", BLUE, ["5"], ["6"], ["7"]),
            group("Dynamics 10", BLUE, ["8"], ["9"], ["10"]),
            group("Dynamics 19", BLUE, ["11"], ["12"], ["13"]),
        ],
        [group("One video", YELLOW, ["14", "15", "16", "17"])],
        [group("Side by side", GREY, ["18"])],
    ],
    "dctinit_versus_plain": [
        [group("Read me", GREY, [NOISE_NOTE]), group("Model, photo and words", GREEN, ["1", "2"], ["3", "4"])],
        [
            group("The same for both", BLUE, ["5"], ["6", "7"], ["8"]),
            group("Plain noise", PURPLE, ["9"], ["10"], ["11"]),
            group("DCT noise", PURPLE, ["12"], ["13"], ["14"]),
        ],
        [group("One video", YELLOW, ["15", "16", "17"])],
    ],
    "train_motion_lora": [
        [group("Read me", GREY, [TRAIN_NOTE]), group("Model and photo", GREEN, ["1", "3"])],
        [group("Clips and training", BLUE, ["2"], ["4"])],
        [group("Animate, before and after", PURPLE, ["5", "6"], ["7", "8"], ["9", "10"])],
        [group("One video", YELLOW, ["11", "12", "13"])],
    ],
}
