"""The published files are not at hand, but their sizes are known: they must be those of our networks' tensors.

A wrong width, a forgotten layer or another type of number changes a file by far more than the names in it take.
"""

import json

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

from latentsync.models import quality, restorers, syncnet, syncnet_v2, teachers
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.weights import registry
from tests.models.test_vae import published_names

FP16, FP32 = 2, 4  # bytes a number


def published_size(name: str) -> int:
    return registry.entry(name).files[0].size


def teacher(size: str):
    few = teachers.VIDEOMAE_V2[size] | {"num_frames": 2}  # changes no weight, only the position table, which is slow
    return teachers.VideoTeacher(teachers.config(few)).net


def face_detector():
    from face_alignment.detection.sfd.net_s3fd import s3fd

    return s3fd()


def codeformer():
    return pytest.importorskip("spandrel_extra_arches.architectures.CodeFormer", reason="optional extra").CodeFormer()


@pytest.mark.parametrize(
    ("name", "build", "bytes_each"),
    [
        ("latentsync-1.6", lambda: UNet3D(UNetConfig()), FP32),
        ("latentsync-1.5", lambda: UNet3D(UNetConfig()), FP32),
        ("stable_syncnet", lambda: syncnet.build_published("16_pixel_attn"), FP32),
        ("stable_syncnet-1.5", lambda: syncnet.build_published("16_pixel_attn"), FP32),
        ("stable_syncnet-1.0", lambda: syncnet.build_published("16_pixel"), FP32),  # with its loss curves
        ("syncnet_v2", syncnet_v2.SyncNetV2, FP32),
        ("s3fd", face_detector, FP32),
        ("videomae_giant", lambda: teacher("giant"), FP16),
        ("videomae_base", lambda: teacher("base"), FP16),
        ("videomae_small", lambda: teacher("small"), FP16),
        ("gfpgan", lambda: restorers.gfpgan_network(**restorers.PUBLISHED_GFPGAN), FP32),
        ("gfpgan-1.3", lambda: restorers.gfpgan_network(**restorers.PUBLISHED_GFPGAN), FP32),
        ("codeformer", codeformer, FP32),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_pickles_are_as_large_as_our_tensors_and_their_names(name, build, bytes_each):
    with torch.device("meta"):
        state = build().state_dict()
    names = published_size(name) - bytes_each * sum(value.numel() for value in state.values())
    assert 0 < names < 2000 + 460 * len(state) + (900_000 if name == "stable_syncnet-1.0" else 0)


def test_hyperiqa_is_as_large_as_its_file():
    state = quality.build_hyperiqa().state_dict()
    names = published_size("hyperiqa") - FP32 * sum(value.numel() for value in state.values())
    assert 0 < names < 460 * len(state)


def safetensors_size(state, metadata) -> int:
    """Bytes of a file: eight, the JSON header, the tensors (format of safetensors 0.3 to 0.6)."""
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for key in sorted(state):
        begin, end = end, end + FP32 * state[key].numel()
        header[key] = {"dtype": "F32", "shape": list(state[key].shape), "data_offsets": [begin, end]}
    return 8 + len(json.dumps(header, separators=(",", ":"))) + end


@pytest.mark.parametrize("name", ["vae", "taesd", "sd15"])
def test_safetensors_have_our_names_to_the_byte(name):
    """The header holds every name and shape; it is padded to eight bytes, or, in older files, not."""
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4} | blocks
    with torch.device("meta"):
        state = {
            "vae": lambda: published_names(AutoencoderKL(**vae).state_dict()),
            "taesd": lambda: AutoencoderTiny().state_dict(),
            "sd15": lambda: UNet3D(UNetConfig(motion="none", in_channels=4, cross_attention_dim=768)).state_dict(),
        }[name]()
    sizes = {safetensors_size(state, metadata) for metadata in (None, {"format": "pt"})}
    assert any(0 <= published_size(name) - size < 8 for size in sizes)
