"""OpenPose's three files become one, checked; the shell shows the licence."""

import pytest
import torch
from pack.motion.errors import CheckpointError
from pack.motion.io.checkpoints.openpose_conversion import convert_openpose, is_openpose_folder
from pack.motion.io.files.atomic import write_safetensors
from pack.motion.io.files.safetensors import read_header, read_safetensors
from pack.motion.io.networks import openpose
from pack.motion.io.networks.openpose import FILES, read_openpose, shapes_of
from pack.motion.shell import main


def test_layers_and_channels_are_those_of_the_three_files():
    """Bytes of float32 that the files' weights take: 209, 147 and 154 MB."""
    bytes_of = {part: 4 * sum(torch.Size(shape).numel() for shape in shapes_of(part).values()) for part in FILES}
    assert bytes_of == {"body": 209_245_784, "hand": 147_329_296, "face": 153_702_824}
    assert [len(shapes_of(part)) for part in FILES] == [184, 104, 104]


@pytest.fixture
def small(monkeypatch):
    """The same names with thin layers."""
    whole = openpose.shapes_of
    monkeypatch.setattr(openpose, "shapes_of", lambda part: {
        name: tuple(min(side, 3) for side in shape) for name, shape in whole(part).items()})  # fmt: skip


@pytest.fixture
def folder(small, tmp_path):
    """A folder with the three .pth: one as torch writes it, two as before 1.6."""
    draw, place = torch.Generator().manual_seed(0), tmp_path / "openpose"
    place.mkdir()
    for part, name in FILES.items():
        state = {weight: torch.randn(shape, generator=draw) for weight, shape in openpose.shapes_of(part).items()}
        torch.save(state, place / name, _use_new_zipfile_serialization=part == "face")
    return place


def test_three_files_become_one_with_every_weight(folder, tmp_path):
    path, count = convert_openpose(folder, tmp_path / "openpose.safetensors")
    parts = read_openpose(path)
    assert count == sum(tensor.numel() for state in parts.values() for tensor in state.values())
    for part, name in FILES.items():
        truth = torch.load(folder / name, weights_only=True)
        assert parts[part].keys() == truth.keys()
        assert all(torch.equal(parts[part][weight], tensor) for weight, tensor in truth.items())
    about = read_header(path).metadata
    assert about["family"] == "openpose" and "non-commercial" in about["license"]


def test_the_shell_converts_a_folder_and_shows_the_licence(folder, tmp_path, capsys):
    output = tmp_path / "out.safetensors"
    assert main.main(["convert", str(folder), "-o", str(output)]) == 0
    said = capsys.readouterr().out
    assert "non-commercial" in said and "OpenPose: body, hand, face" in said and output.is_file()
    assert main.main(["convert", str(folder), "-o", str(output)]) != 0
    assert main.main(["convert", str(folder), "-o", str(tmp_path / "b.safetensors"), "--dtype", "float16"]) != 0
    assert "leave it out" in capsys.readouterr().err


def test_a_file_that_is_missing_is_named_with_the_others(folder, tmp_path):
    (folder / "facenet.pth").unlink()
    with pytest.raises(CheckpointError, match="facenet.pth is missing; it is needed beside body_pose_model.pth, hand"):
        convert_openpose(folder, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists() and is_openpose_folder(folder)
    assert not is_openpose_folder(tmp_path) and not is_openpose_folder(tmp_path / "nowhere")


def test_files_of_other_networks_are_refused_by_the_first_weight(folder, tmp_path):
    state = torch.load(folder / "facenet.pth", weights_only=True)
    torch.save(state, folder / "body_pose_model.pth")
    with pytest.raises(CheckpointError, match=r"body_pose_model.pth: weight 'conv4_3_CPM.weight' of OpenPose's body"):
        convert_openpose(folder, tmp_path / "out.safetensors")
    (folder / "body_pose_model.pth").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="body_pose_model.pth: only 4 bytes long"):
        convert_openpose(folder, tmp_path / "out.safetensors")


def test_a_weight_of_another_shape_is_refused_with_both(folder, tmp_path):
    state = torch.load(folder / "hand_pose_model.pth", weights_only=True)
    torch.save(state | {"conv1_1.bias": torch.zeros(9)}, folder / "hand_pose_model.pth")
    with pytest.raises(CheckpointError, match=r"'conv1_1.bias' is \(9,\); OpenPose's hand network has \(3,\)"):
        convert_openpose(folder, tmp_path / "out.safetensors")


def test_pickles_are_sent_to_the_converter_and_a_missing_weight_is_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match="no node opens pickles; .* `./motionblocks convert FOLDER -o"):
        read_openpose(folder / "body_pose_model.pth")
    path, _ = convert_openpose(folder, tmp_path / "openpose.safetensors")
    tensors, about = read_safetensors(path)
    del tensors["hand.conv6_2_CPM.bias"]
    write_safetensors(path, tensors, about)
    with pytest.raises(CheckpointError, match="'conv6_2_CPM.bias' of OpenPose's hand network is missing"):
        read_openpose(path)
