"""What the page of each shipped workflow shows beside its nodes: groups, their order, and notes. Data only."""

GREEN, BLUE, PURPLE, YELLOW, GREY = "#8a8", "#3f789e", "#a1309b", "#b58b2a", "#888"

# Sizes that the frontend cannot guess: room for a preview or for text.
NODE_SIZES = {
    "MotionBlocksLoadBuiltin": (320, 150),
    "MotionBlocksSamplePhoto": (320, 330),
    "CLIPTextEncode": (320, 110),
    "MotionBlocksEmptyPrompt": (320, 140),
    "SaveVideo": (480, 460),
    "MotionBlocksDCTInit": (320, 620),
    "MotionBlocksMeasureDynamics": (480, 260),
    "MotionBlocksCompareVideos": (560, 900),
    "MotionBlocksImageToVideo": (320, 470),
    "VAEDecode": (220, 0),
    "MotionBlocksLoadClips": (340, 620),
    "MotionBlocksTrainMotionModel": (420, 1480),
    "MotionBlocksTrainAdapter": (420, 1364),
    "MotionBlocksLoadAdapter": (360, 330),
    "MotionBlocksApplyAdapters": (360, 210),
    "MotionBlocksLoadModel": (380, 320),
    "MotionBlocksLoadTextEncoder": (380, 360),
    "MotionBlocksLoadVAE": (380, 280),
    "MotionBlocksEncodePrompts": (420, 480),
    "MotionBlocksInflateModel": (420, 560),
    "MotionBlocksGenerateClips": (420, 620),
    "MotionBlocksPrepareMotionClip": (360, 620),
    "MotionBlocksClassifyHeads": (420, 900),
    "MotionBlocksTrainMotionLoRA": (420, 1320),
    "MotionBlocksMeasureMotionTransfer": (560, 900),
    "ImageScale": (320, 170),
    "MotionBlocksLoadPoses": (460, 640),
    "MotionBlocksCleanPoses": (460, 860),
    "MotionBlocksRetargetPoses": (560, 960),
    "MotionBlocksDrawPoses": (480, 860),
    "MotionBlocksPoseReport": (700, 760),
    "MotionBlocksPoseVideo": (400, 470),
    "MotionBlocksDecodePoseVideo": (320, 150),
    "MotionBlocksSavePoses": (460, 640),
}
NODE_WIDTH = 320
SIZES_IN = {  # their videos are tall
    "compare_dynamics": {"SaveVideo": (420, 900)},
    "move_the_subject": {"SaveVideo": (480, 720), "MotionBlocksSamplePhoto": (320, 480)},
    "sana_inflate_train_animate": {"SaveVideo": (480, 680)},
    "wan22_train_animate": {"SaveVideo": (480, 680)},
    "wan22_motion_adapters": {"SaveVideo": (480, 680)},
    "wan_motion_adapter": {"MotionBlocksSamplePhoto": (320, 420)},
    "motion_adapter": {"SaveVideo": (480, 720)},
    "words_to_video": {"SaveVideo": (480, 680)},
    "drawing_to_video": {"SaveVideo": (480, 680), "MotionBlocksSamplePhoto": (320, 420)},
    "motion_transfer": {"MotionBlocksLoadClips": (340, 480)},
    "classify_heads": {"MotionBlocksLoadClips": (340, 480), "SaveVideo": (420, 800)},
    "motion_reconstruction": {"MotionBlocksLoadClips": (340, 480), "SaveVideo": (480, 680)},
    "wan21_motion_transfer": {"MotionBlocksLoadClips": (340, 480)},
    "wan22_motion_transfer": {"MotionBlocksLoadClips": (340, 480)},
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
4. **edges**: `crop` shows the largest part of the photo that no frame leaves, enlarged at most 1.35 times;
   `mirror` keeps the whole photo and mirrors what lies beyond its edges.

The video has the size of the photo (an odd side grows by one pixel).
""",
    (400, 400),
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

The LoRA is saved as `output/loras/jelly_00001.safetensors` and loads in the core node **Load LoRA**
(older hosts call it *LoraLoaderModelOnly*).
""",
    (520, 440),
)

LEARN_NOTE = note(
    "Start here",
    """
# Teach one motion from ten clips

Press **Run**. On a CPU the whole takes a minute or two; nothing is downloaded. Ten clips that come with the pack show a
picture that is **squashed and stretched like jelly**. A small *motion adapter* learns it, and your photo does it too.

The video shows the same photo and seed twice: **left before, right after**. *Learn the motion* shows the loss curve and
samples while it runs.

1. **Your own motion**: film it ten times, put the videos into a folder in ComfyUI's `input` folder, refresh (key R),
   choose it in *Ten clips*. Captions are not read. The help page of *Learn the motion* says what makes clips good.
2. **Video of 24 frames a second**: *fps* 24 and strides of 6 here, or 16 frames with strides of 3.
3. **Cancel** is safe. To go on, set *resume_from* to `latest`.

The adapter is saved as `output/motion_adapters/jelly_00001.safetensors`; **Load Motion Adapter** lists it after a
refresh.
""",
    (520, 440),
)

ONE_ADAPTER_NOTE = note(
    "Start here",
    """
# Move a photo with a motion adapter

Press **Run**. *A motion* holds what ten clips taught; it stands in place of words.

- **weight**: 0 is the model itself, 1 the motion as it was taught. Another weight reloads nothing.
- **frame_curve** `0.4:0, 0.6:1`: the motion begins in the middle of the video.
- **step_curve** `0:1, 0.5:0.3`: strong where the motion is decided, weak where details are.
- **mask**: draw in the mask editor of **Load Image** where it may act.
- **Your own**: *train_motion_adapter* makes one in a minute or two.

This one was taught on 8 frames, so *num_frames* is 8.
""",
    (440, 340),
)

TWO_ADAPTERS_NOTE = note(
    "Start here",
    """
# Two motions on one photo

Press **Run**. The left half pans, the right half is squashed like jelly: two motion adapters, each with a **mask**, in
one call of the model.

- They are chained through **stack**; the order changes nothing.
- Where masks share the picture out, each weight stays 1: what counts is the sum at each place.
- Your masks: draw them in **Load Image**. Best along edges of things, since what moves differently must part somewhere.
- Both on the whole picture: no masks, and weights of 0.5, or **Combine Motion Adapters** with its slider.
""",
    (440, 300),
)

SUBJECT_NOTE = note(
    "Start here",
    """
# Move what is in the photo

Press **Run**. The larger built-in model moves the subject of a photo, not only the camera. It looks for what stands
out most: a head, a cup, a boat on water.

Words for the subject: `swing`, `bounce`, `orbit`, `slide left`, `slide right`, `slide up`, `slide down`.
For a sky at the top: `clouds`; for all of the picture: `sway`, `pulse`, and every camera word.

- **Your photo**: replace *Photo* by **Load Image**. One clear subject before a calm background works best.
- **dynamics** says how far it goes; the slider of each word ends where faces and straight lines would bend.
- **region**: draw in the mask editor of **Load Image** what may move, and connect its MASK.
- **edges**: `crop` shows the largest part of the photo that no frame leaves, enlarged at most 1.35 times; `mirror`
  keeps the whole photo and mirrors what lies beyond its edges.

`rain` and `snow` fall in front of the picture; nothing else is invented: nobody walks or turns round. A subject takes
its surroundings along like a rubber sheet.
""",
    (400, 500),
)

FILES_NOTE = """
These models are not part of the pack, and nothing is downloaded by itself. Get, in the way you trust, the whole folder

`{folder}`

and put it into ComfyUI's `models/diffusion_models` as it is; then press **R**. Row *{row}* of the pack's
`docs/models.md` names its source, size and licence. Network, VAE and text encoder all lie in that one folder, which is
why the three loaders show the same name. They may also lie apart: rows *{vae}* and *Gemma-2*.
"""

TEXT_NOTE = note(
    "Start here",
    "# Text to video with SANA-Video\n"
    + FILES_NOTE.format(folder="SANA-Video_2B_480p_diffusers", row="SANA-Video 480p", vae="Wan 2.1 VAE")
    + """
1. Say in *What the video shows* what there is and **how it moves**, in two or three sentences of plain English.
2. **dynamics**, 0 to 19, is how much moves. SANA-Video reads it as the words `motion score: 30` behind your prompt.
3. Press **Run**.
""",
    (520, 400),
)

PHOTO_NOTE = note(
    "Start here",
    "# A photo becomes a video with SANA-Video\n"
    + FILES_NOTE.format(folder="SANA-Video_2B_480p_diffusers", row="SANA-Video 480p", vae="Wan 2.1 VAE")
    + """
1. **Your photo**: replace *Photo* by **Load Image**. The middle of it is scaled to 832x480; for a tall photo write
   480 and 832 in *832x480, the middle*.
2. Say in *What happens* what the photo shows and **how it moves**.
3. **dynamics** of that node, 0 to 19, is how much moves: SANA-Video reads it as words behind your prompt. The
   *dynamics* of *Photo to video* is for models with motion buckets; SANA-Video does not look at it.
4. Press **Run**. Frame 1 of the video is the photo, as the VAE gives it back.
""",
    (520, 490),
)

VIDEO_NOTE = note(
    "Good to know",
    """
Sides divide by 16, the number of frames is 4k + 1: 81 frames are 5 seconds. **Short of memory or patience?** Take 33
frames, or 640x368. What cannot fit is refused before the first step, with the number of GB.

50 steps, cfg 6 and 16 frames a second are what SANA-Video was published with. `fp8_e4m3fn` as *weight_dtype* of the
model halves its memory; the text encoder leaves the card before the sampling.

Every part was checked against another implementation with random weights. Pictures of the published weights were not
compared.
""",
    (520, 260),
)

INFLATE_NOTE = note(
    "Start here",
    "# An image model learns to move\n"
    + FILES_NOTE.format(folder="Sana_600M_512px_diffusers", row="SANA 0.6B", vae="DC-AE")
    + """
1. *SANA becomes a video model* adds temporal attention to the image model and saves it under
   `output/diffusion_models`. Untrained, its frames do not belong together.
2. *Train a LoRA* teaches it. The generated clips (pan, zoom) only show the way: replace *Clips (yours go here)* by
   **Load Clips** and a folder of your own videos with captions in `input`. The more clips and steps, the better: MiraMo
   was trained on millions. *mode* `full` trains every weight and takes 12 GB for weights and optimizer alone.
3. The trained model animates *Photo*. Describe in *What happens* what your clips show.

**Cancel** is safe: to go on set *resume_from* to `latest`. Later you need no training: *Load Motion Model* with the
saved model, and **Load LoRA** (older hosts: *LoraLoaderModelOnly*) with `loras/sana_motion_00001.safetensors`.
""",
    (520, 530),
)

WORDLESS_WAN_FILES = """
Weights are not part of the pack; the files of Comfy-Org's *Wan* repackages go into

- `ComfyUI/models/diffusion_models`: {models}
- `ComfyUI/models/vae`: `wan_2.1_vae`
"""
WAN_FILES = WORDLESS_WAN_FILES.replace(
    "- `ComfyUI/models/vae`", "- `ComfyUI/models/text_encoders`: `umt5_xxl_fp8_e4m3fn_scaled`\n- `ComfyUI/models/vae`"
)

WAN_NOTE = note(
    "Start here",
    "# Wan learns a motion\n"
    + WAN_FILES.format(models="`wan2.1_t2v_1.3B_bf16`")
    + """
1. *Clips*: ten small ones come with the pack; choose a folder of your own videos with captions in `input` instead.
2. *Train a LoRA*: 17 frames at 16 a second, 480 px, a second of motion each. **Cancel** is safe: to go on set
   *resume_from* to `latest`. Out of memory: lower *resolution*, or load the model as `fp8_e4m3fn`.
3. The trained model makes a video of *What happens*. Later you need no training: **Load LoRA** (older hosts:
   *LoraLoaderModelOnly*) with `loras/wan_motion_00001.safetensors`.

Tried with tiny random weights on both ends of the supported hosts, on a CPU; not with the published weights.
""",
    (520, 400),
)

EXPERTS_NOTE = note(
    "Start here",
    "# Both experts of Wan 2.2 learn a motion\n"
    + WAN_FILES.format(models="`wan2.2_i2v_high_noise_14B_fp8_scaled`, `wan2.2_i2v_low_noise_14B_fp8_scaled`")
    + """
Wan 2.2 is two models: the first makes what moves out of noise, the second how it looks. Each is trained on its own
share of the noise levels (*expert*) and has a file of its own: `loras/wan22_motion_high_00001.safetensors`, and one
with `_low_`. For a motion the first may be enough: bypass *Train the low-noise expert*.

1. *Clips*: choose a folder of your own videos with captions in `input`.
2. *Photo*: replace it by **Load Image**; sides must be multiples of 16 px.
3. The samplers share 20 steps: *end_at_step* of the first is *start_at_step* of the second.

Tried with tiny random weights on both ends of the supported hosts, on a CPU; not with the published weights.
""",
    (520, 430),
)

WAN_ADAPTER_NOTE = note(
    "Start here",
    """
# Teach the small Wan a motion from ten clips

Press **Run**. On a CPU the whole takes two minutes or so; nothing is downloaded. Ten drawn clips show shapes that
**go over in an arc**, which the built-in small Wan has never seen. A *motion adapter* learns it, and the drawing does
it too.

The video shows the same drawing and seed twice: **left before, right after**.

1. *Drawing*: the model knows one plain shape on a ground, not photographs. It begins at the left, like the clips.
2. **The large ones**: replace the built-in model by *Load Diffusion Model* and its CLIP and VAE, and the same graph
   teaches Wan 2.1 or 2.2, on a card and in hours: numbers of 0 in *Learn the motion* are those of the paper.
3. **Cancel** is safe. To go on, set *resume_from* to `latest`.

The adapter is saved as `output/motion_adapters/arc_00001.safetensors`; **Load Motion Adapter** lists it after a
refresh.
""",
    (520, 460),
)

WAN22_ADAPTERS_NOTE = note(
    "Start here",
    "# A motion adapter for each expert of Wan 2.2\n"
    + WORDLESS_WAN_FILES.format(models="`wan2.2_i2v_high_noise_14B_fp8_scaled`, `wan2.2_i2v_low_noise_14B_fp8_scaled`")
    + """
Wan 2.2 is two models; each gets an adapter of its own, trained on its share of the noise levels (*expert*):
`motion_adapters/wan22_motion_high_00001.safetensors`, and one with `_low_`. Once they are there, **Load Motion
Adapter** takes the place of each trainer. An adapter on the wrong expert says so.

1. *Clips*: choose a folder of ten videos of one motion in `input`; captions are not read, and neither prompt nor text
   encoder is needed.
2. *Photo*: replace it by **Load Image**; sides must be multiples of 16 px.
3. The samplers share 20 steps: *end_at_step* of the first is *start_at_step* of the second. cfg 1 is enough.

8,000 steps at 0.00001 are those of the paper and take hours on a card. Tried with tiny random weights on both ends of
the supported hosts, on a CPU; not with the published weights.
""",
    (520, 500),
)

POSES_NOTE = note(
    "Start here",
    """
# Poses that fit your picture

Press **Run**: a walk is cleaned, fitted to the drawn character and drawn. Nothing is downloaded.

1. **Your own poses**: put a `.json` of DWPose, SDPose or OpenPose into ComfyUI's input folder and choose it in
   *Poses that move*. Or connect the POSE_KEYPOINT of a detector to *Gaps and jitter out*.
2. **Your own picture**: replace *The picture* by **Load Image**, and *The picture's pose* by what a detector
   finds in that picture.
3. *Fit to the picture's body* shows first the picture's own pose, then the frame that is taken for the same
   pose. If that frame does not look like the picture, choose another **calibration_frame**.

The frames go into WanAnimate, VACE, SCAIL or a pose ControlNet.
""",
    (420, 400),
)

SDPOSE_NOTE = note(
    "Start here",
    """
# From a video to skeletons that fit your picture

By ComfyUI's own **SDPose** (0.33.0 and newer). Three things are not part of the pack:

- `sdpose_wholebody_fp16.safetensors` in `models/checkpoints`
- `rt_detr_v4-x-hgnet_fp16.safetensors` in `models/diffusion_models`; both come from `Comfy-Org/SDPose` on Hugging Face
- your video, `my_video.mp4`, and your picture, in ComfyUI's input folder

Say the video's frame rate in *fps* of *One person, gaps and jitter out*; *new_fps* 16 is what Wan wants.
For several people choose *everybody* there, and raise *max_detections* if need be.
""",
    (420, 360),
)

WORDS_NOTE = note(
    "Start here",
    """
# A small video from words

Press **Run**. The model is a Wan of 9 million parameters that comes with the pack: the same architecture, nodes and
graph as the large ones, small enough for a CPU. It draws one plain shape on a ground, 64 px wide, and nothing else.

Its words, one of each kind, in any order; what you leave out it chooses itself:

- size: `small`, `large`; texture: `striped`, `spotted`
- colour: `red`, `yellow`, `green`, `blue`, `purple`, `white`, `black`
- shape: `ball`, `box`, `triangle`, `ring`, `cross`
- ground: `on sand`, `on grass`, `on snow`, `at night`, `in the sky`, `on bricks`
- motion: `stands still`, `moves left`, `right`, `up`, `down`, `bounces`, `orbits`, `spins`, `grows`, `shrinks`

Frames are 17, or 4k+1 up to 33; sides 64 to 192 px in steps of 16. It was trained at 64 px almost alone. Colours and
grounds are sure; which way it moves is right more often than not: try another seed. *drawing_to_video* is surer.
""",
    (520, 480),
)

DRAWING_NOTE = note(
    "Start here",
    """
# A drawing goes on

Press **Run**. The picture becomes the first frame, and the words say what happens. The model is a small Wan of image to
video that comes with the pack, with the layout of Wan 2.2's: replace it by *Load Diffusion Model* and the same graph
drives the large ones.

1. **Drawing**: replace it by **Load Image**. The model knows one plain shape on a ground, not photographs.
2. **What it does**: words as in the workflow *words_to_video*, such as `moves left` or `spins`. An empty prompt leaves
   the motion to the model.
3. *To the size the model knows*: 64 px; sides of 64 to 192 px in steps of 16 work.
""",
    (520, 330),
)

FOLLOW_NOTE = note(
    "Start here",
    """
# A picture follows poses

Press **Run**: under a minute on a CPU. A drawn puppet takes up the poses of a dance it has never seen. The model is a
small Wan that comes with the pack; picture, skeletons and video are one sequence for it, as in FramePrompt.

1. **Poses to follow**: choose `walk.json` or `dance.json`, or your own (*SDPose*, *DWPose*, OpenPose files). Fast ones
   blur: what moves more than 3 px a frame is more than this model can draw.
2. **The picture** and **its pose**: another puppet needs its own pose file. The model knows drawn puppets of this kind,
   not photographs.
3. **The first 17**: as many frames as the model was trained on.
4. **Picture and poses before the video** says what stands where. The same graph drives the large Wan with a LoRA of
   *Train Pose LoRA*; nobody has published one yet.
""",
    (560, 440),
)

MOTION_NOTE = note(
    "Start here",
    """
# One clip's motion for another subject

Press **Run**: some minutes on a CPU. A red ball flies in an arc, which the small Wan never saw; a blue box learns it.

1. **Choose its frames**: 17 at 16 a second, all of them trained. Your own clip: *Load Video* to `video` in place of
   *clips*. The small Wan knows one plain shape on a ground.
2. **Which heads look along time**: blue boxes stay in the picture, orange ones follow things along time.
3. **Learn the motion**: first what the clip looks like, from single frames; then how it moves. The curve shows both.
   Only the second LoRA is used, so the band at the edge of the clip stays behind.
4. **Another subject**: words as in *words_to_video*, best without a motion.

The LoRA is saved as `output/loras/arc_00001.safetensors`; **Load LoRA (Model Only)** loads it after a refresh (R).

For **Wan 2.1** replace the model, its CLIP and VAE by the host's own loaders; 81 and 17 frames, resolution 512, preset
*quick*, and a LoRA strength of 0.5. That needs a card.
""",
    (520, 520),
)

HEADS_NOTE = note(
    "Start here",
    """
# Which attention heads look along time

Press **Run**: a few seconds on a CPU. Follow-Your-Motion trains a motion through those heads of a Wan that follow
things **along time**, and leaves those that look around **in the picture** alone.

- **Which heads look along time**: a row a layer, a box a head; blue = in the picture, orange = along time, a dot on
  those that count as temporal. *text* is the map as JSON, to keep.
- **How steady that is**: at four noise levels. The report says how many heads change their type on the way; the paper
  looks at 0.9998 alone.
- **Another rule, without looking again**: reads the text of the first map. Try *alpha* and *target_fraction* there.

Your own clip: *Load Video* to `video` in place of *clips*. **Train Motion LoRA** takes the map at *head_map*, and makes
one by itself where none is connected. For Wan 2.1 or 2.2: *wan21_motion_transfer*, *wan22_motion_transfer*.
""",
    (520, 430),
)

RECONSTRUCTION_NOTE = note(
    "Start here",
    """
# Is the clip really in the two LoRAs?

Press **Run**: some minutes on a CPU. A check before you trust a motion LoRA: with **both** LoRAs and the clip's own
caption the clip must come out again, and with the **motion alone** it must move so, without the looks that no word
names: here a band at the edge of the picture.

- **Learn the looks**: single frames alone, *stage* `spatial`.
- **Learn the motion beside them**: *stage* `temporal`, on the model that has the looks already.
- **The motion alone**: the second LoRA on the bare model, as it is used.

In the video above: the clip, and what the bare model makes of its caption; below: the motion alone, and with the looks.
**Measure Motion Transfer** tells it in numbers: of moving tracks both should come near 1, and above what the bare model
has. The band says which looks came along; *colours* say little here, since the caption names them.

*motion_transfer* then gives the motion to another subject.
""",
    (520, 440),
)

MOTION_FILES = """
1. **Your clip**: *Load Video* to `video` of *Choose its frames*, in place of *clips*; about 5 seconds with one clear
   motion. Of 81 frames 17 are trained. Name in `caption` all that is seen.
2. **Another subject**: a prompt with other things and colours, best without a motion.
3. **Learn the motion**: preset *quick*, 3000 steps; *paper* takes 5000 at rank 128. Looks first, which are put aside,
   then motion. **Cancel** is safe: to go on set *resume_from* to `latest`. Out of memory: lower *resolution*, or load
   the model as `fp8_e4m3fn`.
"""

WAN21_MOTION_NOTE = note(
    "Start here",
    "# One clip's motion for another subject, by Wan 2.1\n"
    + WAN_FILES.format(models="`wan2.1_t2v_1.3B_bf16`")
    + MOTION_FILES
    + """
4. Left without, right with the motion, and the numbers in *Does it move like the clip?*. Later you need no training:
   **Load LoRA (Model Only)** with `loras/wan21_motion_00001.safetensors` at 0.5.

The clip that comes with the pack has 17 frames of 64 px: it only shows that the graph runs. Tried with tiny random
weights on both ends of the supported hosts, on a CPU; not with the published weights.
""",
    (520, 620),
)

WAN22_MOTION_NOTE = note(
    "Start here",
    "# One clip's motion for another subject, by Wan 2.2\n"
    + WAN_FILES.format(models="`wan2.2_t2v_high_noise_14B_fp8_scaled`, `wan2.2_t2v_low_noise_14B_fp8_scaled`")
    + """
Wan 2.2 is two models: the first makes what moves out of noise, the second how it looks. So only the **high-noise**
expert is trained (*expert*); nothing in a file tells the two apart.
"""
    + MOTION_FILES
    + """
4. The samplers share 20 steps: *end_at_step* of the first is *start_at_step* of the second. Later you need no training:
   **Load LoRA (Model Only)** with `loras/wan22_motion_high_00001.safetensors` at 0.5, before the first sampler.

The clip that comes with the pack has 17 frames of 64 px: it only shows that the graph runs. Tried with tiny random
weights on both ends of the supported hosts, on a CPU; not with the published weights.
""",
    (520, 720),
)

LAYOUTS = {
    "fit_poses": [
        [group("Read me", GREY, [POSES_NOTE]), group("Poses", GREEN, ["1"])],
        [group("Clean", BLUE, ["2"]), group("Picture", GREEN, ["3", "4"])],
        [group("Fit", PURPLE, ["5"]), group("Before and after", GREY, ["9"])],
        [group("Draw", PURPLE, ["6"]), group("Video", YELLOW, ["7", "8"])],
    ],
    "follow_poses": [
        [group("Read me", GREY, [FOLLOW_NOTE]), group("Model", GREEN, ["1", "9"])],
        [group("Picture", GREEN, ["2", "8"]), group("Poses", GREEN, ["3", "4"])],
        [group("Fit and draw", BLUE, ["5"], ["6", "7"])],
        [group("Sequence and sampling", PURPLE, ["10", "11", "12"])],
        [group("Video", YELLOW, ["13", "14", "15", "16"])],
    ],
    "sdpose_to_poses": [
        [group("Read me", GREY, [SDPOSE_NOTE]), group("Video and picture", GREEN, ["1", "2", "8"])],
        [group("Detectors of ComfyUI", GREEN, ["3", "4", "5", "6", "9"])],
        [group("Clean", BLUE, ["7"])],
        [group("Fit", PURPLE, ["10"]), group("Keep", GREY, ["14"])],
        [group("Draw", PURPLE, ["11"]), group("Video", YELLOW, ["12", "13"])],
    ],
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
    "train_motion_adapter": [
        [group("Read me", GREY, [LEARN_NOTE]), group("Model and photo", GREEN, ["1", "3"])],
        [group("Clips and training", BLUE, ["2"], ["4"])],
        [group("Animate, before and after", PURPLE, ["6", "7"], ["8", "9", "5"], ["10", "11"])],
        [group("One video", YELLOW, ["12", "13", "14"])],
    ],
    "motion_adapter": [
        [group("Read me", GREY, [ONE_ADAPTER_NOTE])],
        [group("Model and photo", GREEN, ["1", "2"])],
        [group("Motion", BLUE, ["3", "4"])],
        [group("Animate", PURPLE, ["5", "6"], ["7", "8"])],
        [group("Video", YELLOW, ["9", "10"])],
    ],
    "two_motion_adapters": [
        [group("Read me", GREY, [TWO_ADAPTERS_NOTE]), group("Two halves", GREEN, ["3", "4"], ["5", "6"])],
        [group("Model and photo", GREEN, ["1", "2"])],
        [group("Motions", BLUE, ["7", "8", "9"])],
        [group("Animate", PURPLE, ["10", "11"], ["12", "13"])],
        [group("Video", YELLOW, ["14", "15"])],
    ],
    "sana_video_text_to_video": [
        [group("Read me", GREY, [TEXT_NOTE, VIDEO_NOTE])],
        [group("Model, text encoder and VAE", GREEN, ["1", "2", "3"])],
        [group("Prompt and size", BLUE, ["4", "5"])],
        [group("Sample", PURPLE, ["6", "7", "8"], ["9", "10", "11"])],
        [group("Video", YELLOW, ["12", "13"])],
    ],
    "sana_video_image_to_video": [
        [group("Read me", GREY, [PHOTO_NOTE, VIDEO_NOTE])],
        [group("Model, text encoder and VAE", GREEN, ["1", "2", "3"])],
        [group("Photo", GREEN, ["4", "5"])],
        [group("Prompt and sampling", BLUE, ["6"], ["7", "8", "9"])],
        [group("Video", YELLOW, ["10", "11"])],
    ],
    "sana_inflate_train_animate": [
        [group("Read me", GREY, [INFLATE_NOTE])],
        [group("Model, text encoder and VAE", GREEN, ["1", "2", "3"]), group("Photo", GREEN, ["5", "6"])],
        [group("Clips and training", BLUE, ["4"], ["7"])],
        [group("Animate", PURPLE, ["8", "9"], ["10", "11", "12"], ["13", "14", "15"])],
        [group("Video", YELLOW, ["16", "17"])],
    ],
    "words_to_video": [
        [group("Read me", GREY, [WORDS_NOTE])],
        [group("Model and size", GREEN, ["1", "4"])],
        [group("Words", BLUE, ["2", "3"])],
        [group("Sample and decode", PURPLE, ["5"], ["6", "7", "8"])],
        [group("Video", YELLOW, ["9"])],
    ],
    "drawing_to_video": [
        [group("Read me", GREY, [DRAWING_NOTE])],
        [group("Model and drawing", GREEN, ["1", "2"])],
        [group("Words and start", BLUE, ["3", "4", "5"], ["6"])],
        [group("Sample and decode", PURPLE, ["7"], ["8", "9", "10"])],
        [group("Video", YELLOW, ["11"])],
    ],
    "motion_transfer": [
        [group("Read me", GREY, [MOTION_NOTE])],
        [group("Model and clip", GREEN, ["1", "2"], ["3", "4"])],
        [group("Heads", BLUE, ["5"])],
        [group("Learn", PURPLE, ["6", "7"], ["8"])],
        [group("Without and with", PURPLE, ["9", "10", "11"], ["12", "13", "14", "15"])],
        [group("Video", YELLOW, ["16", "17"])],
    ],
    "classify_heads": [
        [group("Read me", GREY, [HEADS_NOTE])],
        [group("Model and clip", GREEN, ["1", "2"], ["3", "4"])],
        [group("Heads", BLUE, ["5"], ["6"], ["7"])],
        [group("Video", YELLOW, ["8", "9", "10", "11"])],
    ],
    "motion_reconstruction": [
        [group("Read me", GREY, [RECONSTRUCTION_NOTE]), group("Model", GREEN, ["1", "9"])],
        [group("Clip", GREEN, ["2", "4", "5"], ["3"])],
        [group("Learn", BLUE, ["6"], ["7"])],
        [group("Without, with the motion, with both", PURPLE, ["10", "11", "8"], ["12", "13", "14", "15"])],
        [group("Measure", BLUE, ["16"], ["17"])],
        [group("Video", YELLOW, ["18", "19", "20", "21"], ["22", "23"])],
    ],
    "wan21_motion_transfer": [
        [group("Read me", GREY, [WAN21_MOTION_NOTE])],
        [group("Model, text encoder and VAE", GREEN, ["1", "4", "2", "3"])],
        [group("Clip and heads", BLUE, ["5", "7"], ["6"], ["8"])],
        [group("Learn", PURPLE, ["9", "10", "12"], ["11"])],
        [group("Without and with", PURPLE, ["13", "14"], ["15", "16"]), group("Video", YELLOW, ["18", "19"], ["20"])],
        [group("Measure", BLUE, ["17"])],
    ],
    "wan22_motion_transfer": [
        [group("Read me", GREY, [WAN22_MOTION_NOTE])],
        [group("Models, text encoder and VAE", GREEN, ["1", "5", "2", "6", "3", "4"])],
        [group("Clip and heads", BLUE, ["7", "9"], ["8"], ["10"])],
        [group("Learn", PURPLE, ["11", "12", "14"], ["13"])],
        [group("Sample", PURPLE, ["15", "17"], ["16"]), group("Video", YELLOW, ["19", "20"])],
        [group("Measure", BLUE, ["18"])],
    ],
    "wan_train_animate": [
        [group("Read me", GREY, [WAN_NOTE])],
        [group("Model, text encoder and VAE", GREEN, ["1", "4", "2", "3"])],
        [group("Clips and training", BLUE, ["5"], ["6"])],
        [group("Animate", PURPLE, ["7", "8", "9"], ["10", "11"])],
        [group("Video", YELLOW, ["12", "13"])],
    ],
    "wan22_train_animate": [
        [group("Read me", GREY, [EXPERTS_NOTE]), group("Photo", GREEN, ["8", "9"])],
        [group("Models, text encoder and VAE", GREEN, ["1", "5", "2", "6", "3", "4"])],
        [group("Clips and training", BLUE, ["7"], ["12"], ["13"])],
        [group("Animate", PURPLE, ["10", "14", "11"], ["15", "16", "17"])],
        [group("Video", YELLOW, ["18", "19"])],
    ],
    "wan_motion_adapter": [
        [group("Read me", GREY, [WAN_ADAPTER_NOTE]), group("Model and drawing", GREEN, ["1", "3"], ["17", "4"])],
        [group("Clips and training", BLUE, ["2"], ["5"])],
        [group("Animate, before and after", PURPLE, ["6", "7"], ["9", "10", "8"], ["11", "12"])],
        [group("One video", YELLOW, ["13", "14", "15", "16"])],
    ],
    "wan22_motion_adapters": [
        [group("Read me", GREY, [WAN22_ADAPTERS_NOTE]), group("Photo", GREEN, ["8", "9"])],
        [group("Models and VAE", GREEN, ["1", "5", "2", "6", "4"])],
        [group("Clips and training", BLUE, ["7"], ["12"], ["13"])],
        [group("Animate", PURPLE, ["10", "11"], ["14", "15", "16"], ["17", "18"])],
        [group("Video", YELLOW, ["19", "20"])],
    ],
}

# Their models are not part of the pack: built among tiny stand-ins, whose videos are noise; their picture is the graph.
WAN_WEIGHTS = (  # the host's own loaders name them; built without any
    "wan_train_animate", "wan22_train_animate", "wan22_motion_adapters", "wan21_motion_transfer",
    "wan22_motion_transfer",
)  # fmt: skip
NEWER_NODES = ("sdpose_to_poses",)  # of ComfyUI 0.33.0; built without weights too
NEED_WEIGHTS = ("sana_video_text_to_video", "sana_video_image_to_video", "sana_inflate_train_animate")
