"""Every shipped workflow runs through /prompt on a real host and leaves the video it promises."""

import numpy as np
import pytest
from shipped_workflows import (
    ALL,
    CITY,
    FOLDER,
    FPS,
    GAP,
    PORTRAIT,
    PROMISES,
    RACCOON,
    api_graph,
    lacking,
    node_of,
    video_of,
)

pytestmark = pytest.mark.host


def motion_of(frames):
    """Mean absolute difference of the first and the last frame, 0 to 255."""
    return float(np.abs(frames[-1] - frames[0]).mean())


def test_every_workflow_has_a_promise_and_a_page_twin():
    api = {path.stem for path in (FOLDER / "api").glob("*.json")}
    assert api == set(ALL) == {path.stem for path in FOLDER.glob("*.json")}
    assert all((FOLDER / f"{name}.jpg").is_file() for name in api), "a workflow lacks its thumbnail"


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_workflow_leaves_the_promised_video(shipped_frames, name):
    num_frames, height, width = PROMISES[name]
    frames, fps = shipped_frames(name)
    assert frames.shape == (num_frames, height, width, 3)
    assert fps == pytest.approx(FPS.get(name, 8.0))
    assert motion_of(frames) > 3.0, "the photo does not move"
    assert np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)).min() > 0.2, "two neighbouring frames are the same"


def test_first_frame_of_the_video_is_the_photo(shipped_frames):
    from PIL import Image

    frames, _ = shipped_frames("animate_photo")
    photo = np.asarray(Image.open(FOLDER.parent / "assets" / "raccoon.jpg").convert("RGB"), np.float32)
    mse = float(((frames[0] - photo) ** 2).mean())
    assert 10 * np.log10(255**2 / mse) > 30, "beyond what H.264 loses"


def test_higher_dynamics_move_more_within_one_video(shipped_frames):
    frames, _ = shipped_frames("compare_dynamics")
    height = CITY[0]
    rows = [frames[:, i * (height + GAP) : i * (height + GAP) + height] for i in range(3)]
    low, middle, high = map(motion_of, rows)
    assert low < middle < high


def test_dct_noise_keeps_the_motion_of_plain_noise(shipped_frames):
    frames, _ = shipped_frames("dctinit_versus_plain")
    plain, dct = frames[:, :, : PORTRAIT[1]], frames[:, :, PORTRAIT[1] + GAP :]
    assert motion_of(plain) > 3.0 and motion_of(dct) > 3.0


def width_against(frame, photo):
    """Factor by which a frame is wider than the photo about its middle, from the mean of each column."""
    profiles = [picture.mean(axis=(0, 2)) for picture in (photo, frame)]
    place = np.arange(len(profiles[0])) - (len(profiles[0]) - 1) / 2
    middle = np.abs(place) < len(place) / 4
    factors = np.linspace(0.75, 1.33, 59)
    errors = [np.square(np.interp(place / f, place, profiles[0]) - profiles[1])[middle].mean() for f in factors]
    return float(factors[int(np.argmin(errors))])


def test_the_trained_half_is_squashed_and_stretched_as_its_clips_are(shipped_frames):
    """The clips are widest at frame 3 of 8 and narrowest at frame 7; the untrained model knows no such motion."""
    frames, _ = shipped_frames("train_motion_lora")
    before, after = frames[:, :, : PORTRAIT[1]], frames[:, :, PORTRAIT[1] + GAP :]
    widths = [[width_against(half[n], half[0]) for n in (2, 6)] for half in (before, after)]
    assert widths[1][0] > 1.03 and widths[1][1] < 0.97, widths
    assert widths[1][0] - widths[1][1] > 3 * abs(widths[0][0] - widths[0][1]), widths


def test_the_trained_adapter_does_as_its_clips_do(shipped_frames):
    frames, _ = shipped_frames("train_motion_adapter")
    before, after = frames[:, :, : PORTRAIT[1]], frames[:, :, PORTRAIT[1] + GAP :]
    widths = [[width_against(half[n], half[0]) for n in (2, 6)] for half in (before, after)]
    assert widths[1][0] > 1.02 and widths[1][1] < 0.98, widths
    assert widths[1][0] - widths[1][1] > 3 * abs(widths[0][0] - widths[0][1]), widths


def test_the_small_wan_shows_the_drawing_without_its_adapter_and_with_it(shipped_frames):
    """Its training is cut down to a few steps: that it learns is E10's to say."""
    frames, _ = shipped_frames("wan_motion_adapter")
    before, after = frames[:, :, :256], frames[:, :, 256 + 32 :]
    assert np.abs(before[0] - after[0]).mean() < 12 < np.abs(before[-1] - before[0]).max()
    assert 0.2 < np.abs(before - after).mean()


def test_the_shipped_adapter_does_as_its_clips_do(shipped_frames):
    frames, _ = shipped_frames("motion_adapter")
    widths = [width_against(frames[n], frames[0]) for n in (2, 6)]
    assert widths[0] > 1.02 and widths[1] < 0.98, widths


def shift_of(part, photo):
    """Whole pixels by which the columns of a part of a frame moved to the right."""
    one, other = (picture.mean(axis=(0, 2)) for picture in (photo, part))
    width, reach = len(one), len(one) // 8
    middle = slice(reach, width - reach)
    errors = [np.square(np.roll(one, shift)[middle] - other[middle]).mean() for shift in range(-reach, reach + 1)]
    return int(np.argmin(errors)) - reach


def test_two_adapters_move_a_half_each(shipped_frames):
    """The left half moves to the right as the camera pans left; the right one is squashed where it stands."""
    frames, _ = shipped_frames("two_motion_adapters")
    half = RACCOON[1] // 2
    left, right = frames[:, :, : half - 48], frames[:, :, half + 48 :]  # a token away from the edge
    shifts = [shift_of(part[5], part[0]) for part in (left, right)]
    assert shifts[0] > 15 and abs(shifts[1]) < shifts[0] / 2, shifts
    assert motion_of(right) > 3.0


def test_the_subject_swings_out_comes_back_and_swings_to_the_other_side(shipped_frames):
    frames, _ = shipped_frames("move_the_subject")
    height, width = PORTRAIT
    head = frames[:, height // 6 : height // 2, width // 3 : 2 * width // 3].mean(-1)
    steepness = np.hypot(*np.gradient(head[0])).mean()
    way = [np.abs(frame - head[0]).mean() / steepness for frame in head]
    assert min(way[3:6]) > 1.5 and min(way[11:14]) > 1.5 and way[8] < 0.8, way


def test_the_walk_goes_right_and_starts_on_the_character(shipped_frames):
    frames, _ = shipped_frames("fit_poses")
    places = [np.argwhere(frame.max(-1) > 64)[:, 1].mean() for frame in frames]
    assert places[-1] - places[0] > 200 and abs(places[0] - 270) < 60, places


def test_the_graph_of_cores_sdpose_is_refused_by_the_names_of_its_weights(host):
    """Sent to a host that has the nodes and not the weights; on an old one the node is what it names."""
    text = host.fail(api_graph("sdpose_to_poses"))
    if lacking(host, "sdpose_to_poses"):
        assert "RTDETR_detect" in text or "SDPoseKeypointExtractor" in text
    else:
        for name in ("sdpose_wholebody_fp16.safetensors", "rt_detr_v4-x-hgnet_fp16.safetensors", "my_video.mp4"):
            assert name in text


def test_same_seed_twice_gives_the_same_video(host):
    graph = api_graph("animate_photo")
    node_of(graph, "KSampler")["seed"] = 11
    first, _ = video_of(host, graph)
    node_of(graph, "KSampler")["seed"] = 12
    video_of(host, graph)
    node_of(graph, "KSampler")["seed"] = 11
    again, _ = video_of(host, graph)
    assert np.array_equal(first, again)


def test_host_lists_the_workflows_as_templates_with_their_pictures(host):
    from host_server import PACK_NAME

    listed = host.get("/workflow_templates")
    assert sorted(listed[PACK_NAME]) == ALL  # those that need public weights too
    for name in ALL:
        assert host.get(f"/api/workflow_templates/{PACK_NAME}/{name}.json")["nodes"]
        assert host.get(f"/api/workflow_templates/{PACK_NAME}/{name}.jpg", raw=True)[:3] == b"\xff\xd8\xff"
