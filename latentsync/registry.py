"""Pretrained files by name: where each is looked for, and what needs it. No torch, so that the Snakefile may ask.

A file is looked for below the weights folder: the environment variable LATENTSYNC_WEIGHTS, else ~/.cache/latentsync.
"""

import os
from pathlib import Path

from latentsync.config import Config

# name -> (path below the weights folder, what it is)
FILES = {
    "syncnet_v2": ("auxiliary/syncnet_v2.model", "the published sync scorer (joonson/syncnet_python)"),
    "stable_syncnet": ("stable_syncnet.safetensors", "a syncnet.safetensors that train_syncnet of any run made"),
    "hyperiqa": ("auxiliary/koniq_pretrained.pkl", "hyperIQA's weights (SSL92/hyperIQA)"),
    "s3fd": ("auxiliary/s3fd-619a316812.pth", "the S3FD face detector of face-alignment"),
    "2dfan4": ("auxiliary/2DFAN4-11f355bf06.pth.tar", "the 68-point landmarks of face-alignment 1.5"),
    "det_10g": ("auxiliary/models/buffalo_l/det_10g.onnx", "InsightFace's SCRFD detector (licence: non-commercial)"),
    "2d106det": ("auxiliary/models/buffalo_l/2d106det.onnx", "InsightFace's landmarks (licence: non-commercial)"),
    "whisper": ("whisper/tiny.pt", "OpenAI's Whisper tiny"),
    "sd15": ("stable-diffusion-v1-5/unet/diffusion_pytorch_model.safetensors", "Stable Diffusion 1.5's U-Net"),
    "vae": ("sd-vae-ft-mse", "the folder of stabilityai/sd-vae-ft-mse"),
    "vgg16": ("auxiliary/vgg16-397923af.pth", "torchvision's VGG16, for LPIPS"),
    "videomae": ("auxiliary/vit_g_hybrid_pt_1200e_ssv2_ft.pth", "VideoMAEv2 ViT-g, for TREPA"),
    "gfpgan": ("enhance/GFPGANv1.4.pth", "GFPGAN 1.4"),
    "codeformer": ("enhance/codeformer.pth", "CodeFormer (licence: non-commercial)"),
    "gpen": ("enhance/GPEN-BFR-512.pth", "GPEN-BFR-512"),
}
NEEDED_BY_FACES = {"mediapipe": (), "face_alignment": ("s3fd", "2dfan4"), "insightface": ("det_10g", "2d106det")}


def weights_folder() -> Path:
    """The folder below which pretrained files lie."""
    return Path(os.environ.get("LATENTSYNC_WEIGHTS", "~/.cache/latentsync")).expanduser()


def find(name: str, chosen: str | None = None, key: str = "") -> Path:
    """The path of a pretrained file: `chosen` if given, else its place below the weights folder.

    Raises:
        ValueError: it is not there; the sentence names the file, the place and the key that asked for it.
    """
    place, what = FILES[name]
    path = Path(chosen).expanduser() if chosen else weights_folder() / place
    if path.exists():
        return path
    asked = f" ({key} asks for it)" if key else ""
    raise ValueError(
        f"{path} is missing: {what}{asked}; put it there, set LATENTSYNC_WEIGHTS to the folder that holds {place}, "
        "or choose what needs no file (config/README.md)."
    )


def find_start(init: str) -> Path:
    """The file that train_unet_stage1.init names: `sd15`, or a path.

    Raises:
        ValueError: as `find`; or it is a folder.
    """
    path = find("sd15", None if init == "sd15" else init, f"train_unet_stage1.init: {init}")
    if path.is_dir():
        raise ValueError(f"train_unet_stage1.init is {init}, which is a folder; name the file of weights in it.")
    return path


def check(cfg: Config) -> None:
    """Find every pretrained file that the configuration asks for, before any job starts.

    Raises:
        ValueError: as `find`, for the first that is missing.
    """
    sync, features, stage1, stage2 = cfg.score_sync, cfg.extract_features, cfg.train_unet_stage1, cfg.train_unet_stage2
    for key, faces in (("align_faces.backend", cfg.align_faces.backend), ("evaluate.faces", cfg.evaluate.faces)):
        for name in NEEDED_BY_FACES[faces]:
            find(name, key=f"{key}: {faces}")
    if sync.backend != "envelope":
        find(sync.backend, sync.weights, f"score_sync.backend: {sync.backend}")
    if cfg.score_quality.backend == "hyperiqa":
        find("hyperiqa", key="score_quality.backend: hyperiqa")
    if features.audio_encoder == "whisper":
        find("whisper", features.whisper_weights, "extract_features.audio_encoder: whisper")
    if features.vae == "published":
        find("vae", features.vae_weights, "extract_features.vae: published")
    if stage1.init is not None:
        find_start(stage1.init)
    if stage2.teachers == "published":
        if stage2.losses.lpips:
            find("vgg16", key="train_unet_stage2.teachers: published")
        if stage2.losses.trepa:
            find("videomae", key="train_unet_stage2.teachers: published")
    if cfg.enhance.method is not None:
        find(cfg.enhance.method, cfg.enhance.weights, f"enhance.method: {cfg.enhance.method}")
