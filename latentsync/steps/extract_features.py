"""What the U-Net's training reads in every step, computed once per clip: audio features and VAE moments.

One safetensors file per clip, named by the clip and by a hash of everything that went into it:
    mel              float32 80 t        SyncNet's mel of the whole clip
    whisper          float16 t50 s d     the audio encoder's states, 50 rows a second
    face_moments     float16 f 2c h w    VAE moments (mean, log variance) of the faces
    masked_moments   float16 f 2c h w    the same of the faces with the mouth region blanked (hole = mid grey)
Moments, not latents: latents are drawn each time they are used.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from latentsync.audio import whisper
from latentsync.config import VERSIONS, ExtractFeatures
from latentsync.faces.crop import to_pixels
from latentsync.faces.mask import keep_mask
from latentsync.ledger.columns import Clip
from latentsync.ledger.files import fingerprint, media_file, read_ledgers, replacing, run_dir
from latentsync.ledger.rows import Row
from latentsync.ledger.shard import run_shard
from latentsync.models import vae
from latentsync.training.clips import ClipStore, sized
from latentsync.weights import files as weight_files
from latentsync.weights import registry


def run(cfg: ExtractFeatures, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Clips (train, val, test) of this shard's sources -> a ledger whose rows name a file of features each."""
    torch.set_num_threads(cfg.torch_threads)
    ledger = outputs["ledger"]
    root = run_dir(ledger)
    vae_path = (
        inputs["vae"][0]
        if inputs.get("vae")
        else registry.find("vae", cfg.vae_weights, "extract_features.vae: published")
    )
    encoder_path = None
    if cfg.audio_encoder == "whisper":
        encoder_path = registry.find("whisper", cfg.whisper_weights, "extract_features.audio_encoder: whisper")
    shard = {row["id"] for row in read_ledgers(inputs["sources"])}
    clips_of = {split: read_ledgers(inputs[split]) for split in ("train", "val", "test")}
    rows = [row | {"split": split} for split, found in clips_of.items() for row in found if row["source_id"] in shard]
    rows = sized(rows, cfg.resolution)
    clips = ClipStore(rows, root)
    shared = {
        "vae": weight_files.content_hash(vae_path),
        "audio_encoder": {
            "backend": cfg.audio_encoder,
            "weights": weight_files.content_hash(encoder_path) if encoder_path else None,
            "width": cfg.width,
            "layers": cfg.layers,
        },
    }
    keys = [fingerprint(part, shared, VERSIONS["extract_features"]) for part in clips.fingerprint_parts()]
    keyed = [row | shared | {"features_key": key} for row, key in zip(rows, keys, strict=True)]
    number = {(row["id"], row["split"]): index for index, row in enumerate(rows)}

    @cache  # loaded when the first clip needs them: a second run needs neither
    def extractor() -> _Extractor:
        encoder = whisper.build(cfg.audio_encoder, width=cfg.width, layers=cfg.layers, path=encoder_path)
        return _Extractor(encoder, vae_path, cfg.batch_size)

    def work(row: Clip, _: str) -> list[Row]:
        file = media_file("extract_features", row["id"], row["features_key"], ".safetensors")
        if not (root / file).exists():  # the name says what is in it
            with replacing(root / file) as temporary:
                save_file(extractor().features(clips, number[row["id"], row["split"]]), temporary)
        return [row | {"features_file": file}]

    run_shard(ledger, keyed, cfg, VERSIONS["extract_features"], work)


class _Extractor:
    """The two encoders, on the GPU where there is one."""

    def __init__(self, encoder: whisper.WhisperFeatures, vae_path: Path, batch_size: int):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder, self.batch_size = encoder, batch_size
        self.encoder.encoder.to(self.device)  # pyright: ignore[reportArgumentType]  # typed as the unbound Module.to
        self.vae = vae.load(vae_path).to(self.device)  # pyright: ignore[reportArgumentType]  # typed as the unbound Module.to

    def features(self, clips: ClipStore, index: int) -> dict[str, np.ndarray]:
        """All arrays of one clip."""
        pixels = to_pixels(clips.frames(index, 0, clips.n_frames(index))).swapaxes(0, 1)
        return {
            "mel": clips.mel(index),
            "whisper": self.encoder.features(clips.audio(index)).astype(np.float16),
            "face_moments": self._moments(pixels),
            "masked_moments": self._moments(pixels * keep_mask(pixels.shape[-1])),
        }

    @torch.inference_mode()
    def _moments(self, pixels: np.ndarray) -> np.ndarray:
        batches = np.split(pixels, range(self.batch_size, len(pixels), self.batch_size))
        with torch.autocast("cuda", torch.float16, enabled=self.device.type == "cuda"):  # half precision, as published
            parts = [
                vae.encode_moments(self.vae, torch.from_numpy(np.ascontiguousarray(some)).to(self.device)).half().cpu()
                for some in batches
            ]
        return torch.cat(parts).contiguous().numpy()  # safetensors writes memory as it is
