"""Two faces with an audio track each: what each mouth shows follows its own audio alone."""

import numpy as np
import pytest
import torch

from latentsync.config import Generate
from latentsync.generation import gates, speakers
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.pipeline import redraw
from latentsync.media.read import read_frames
from tests.generation.test_voices import two_heads
from tests.videos import write_video

CFG = Generate(length="video", crf=1, steps=1, overlap=0, max_s=None)


class Loud:
    """In place of the networks: a mouth as bright as the audio is loud."""

    resolution, frames, weights = 64, 8, {}

    def listen(self, samples):
        level = np.abs(samples[: len(samples) // 320 * 320]).reshape(-1, 320).mean(1)
        return lambda rows: torch.from_numpy(level[np.clip(rows, 0, len(level) - 1)]).reshape(-1, 1, 1)

    def encode(self, faces):
        return torch.zeros(len(faces), 1, 1, 1)

    def denoise(self, conditioning, tokens, cfg):
        return conditioning + tokens.unsqueeze(-1)

    def decode(self, latents):
        return (255 * latents.float()).expand(-1, 3, 64, 64).contiguous()


@pytest.fixture(scope="module")
def video(folder):
    return write_video(folder / "two.mp4", 40, images=lambda i, w, h: two_heads(20, w, h), size=(416, 176))


def said(seed: int) -> np.ndarray:
    """25 levels a second, float32 at 16 kHz."""
    return np.repeat(np.random.default_rng(seed).uniform(0, 1, 40), 640).astype(np.float32)


def test_each_face_follows_its_own_voice(video, detector, tmp_path):
    tracks = speakers.track_video(video, detector, measure=gates.measure_faces(detector.scheme))
    sounds = [said(1), said(5)]
    labels = [speakers.choose(tracks, 40, side).labels for side in ("left", "right")]
    voices = [(one, DrivingAudio(sound)) for one, sound in zip(labels, sounds, strict=True)]
    report = redraw(video, DrivingAudio(sounds[0]), tmp_path / "out.mp4", Loud(), CFG, tracks, voices)
    assert report["n_generated"] == 40
    mouths = np.zeros((2, 40))
    for frame, (_, rgb) in enumerate(read_frames(tmp_path / "out.mp4")):
        for side in (0, 1):
            track = tracks[labels[side][frame]]
            x, y = track.centres[frame - track.start] + [0, 0.3 * track.face_px]
            mouths[side, frame] = rgb[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].mean()
    levels = np.stack(sounds)[:, ::640]
    r = np.corrcoef(np.concatenate([mouths, levels]))[:2, 2:]
    assert r[0, 0] > 0.95 and r[1, 1] > 0.95 and abs(r[0, 1]) < 0.2 and abs(r[1, 0]) < 0.2, r


def test_frames_without_any_voice_say_what_is_known_of_any(video, detector, tmp_path):
    tracks = speakers.track_video(video, detector, measure=gates.measure_faces(detector.scheme))
    labels = [speakers.choose(tracks, 40, side).labels.copy() for side in ("left", "right")]
    labels[0][:10], labels[1][:20] = gates.NO_FACE, gates.OTHER_FACE
    voices = [(one, DrivingAudio(said(seed))) for seed, one in enumerate(labels)]
    report = redraw(video, voices[0][1], tmp_path / "out.mp4", Loud(), CFG, tracks, voices)
    assert (report["n_generated"], report["passed_through"]) == (30, {"other_face": 10})
