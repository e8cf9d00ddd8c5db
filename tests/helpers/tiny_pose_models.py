"""ViTPose and RT-DETR of transformers, tiny, with drawn weights, saved as a user's folders are."""

import torch
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VitPoseImageProcessor,
)

HEIGHT, WIDTH = 64, 48  # px of what the network sees of a person


def save_vitpose(folder, *, experts=1):
    torch.manual_seed(0)
    backbone = VitPoseBackboneConfig(
        image_size=[HEIGHT, WIDTH], patch_size=[16, 16], hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        mlp_ratio=2, out_indices=[2], num_experts=experts, part_features=8 if experts > 1 else 0,
    )  # fmt: skip
    VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=17)).save_pretrained(folder)
    VitPoseImageProcessor(size={"height": HEIGHT, "width": WIDTH}).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n")
    return folder


def save_rt_detr(folder):
    torch.manual_seed(1)
    resnet = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=resnet, encoder_in_channels=[8, 16, 16], encoder_hidden_dim=16, d_model=16, encoder_ffn_dim=16,
        decoder_ffn_dim=16, decoder_in_channels=[16, 16, 16], num_queries=10, decoder_layers=1, encoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, anchor_image_size=None, num_denoising=0,
        id2label={0: "person", 1: "cat"}, label2id={"person": 0, "cat": 1},
    )  # fmt: skip
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder
