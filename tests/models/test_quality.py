"""Quality scores: sharp beats blurred, broken images are harmless, HyperIQA reads its file or says why not."""

import cv2
import numpy as np
import pytest
import torch

from latentsync.models import quality


@pytest.fixture(scope="module")
def face():
    """A photograph of a face, 176 px wide."""
    from skimage import data

    return data.astronaut()[40:216, 130:306]


@pytest.fixture(scope="module")
def piqe():
    return quality.open_scorer("piqe")


@pytest.mark.parametrize("side", [96, 128, 176])
def test_blur_costs_quality_with_a_wide_margin(face, piqe, side):
    small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    assert piqe(small) > 40
    assert piqe(cv2.GaussianBlur(small, (0, 0), 3)) < 25


def test_heavy_noise_costs_quality_too(face, piqe):
    noise = np.random.default_rng(0).normal(0, 40, face.shape)
    assert piqe(np.clip(face + noise, 0, 255).astype(np.uint8)) < piqe(face) - 25


def test_the_same_frame_scores_the_same(face, piqe):
    assert piqe(face) == piqe(face.copy()) == quality.open_scorer("piqe")(face)


@pytest.mark.parametrize(
    "image",
    [np.zeros((96, 96, 3)), np.full((96, 96, 3), 128), np.full((10, 40, 3), 90)],
    ids=["black", "grey", "tiny"],
)
def test_images_of_nothing_score_zero(piqe, image):
    assert piqe(image.astype(np.uint8)) == 0


def test_sides_need_not_be_whole_blocks(face, piqe):
    assert piqe(face[:175, :171]) == piqe(face[7:167, 5:165])


def test_an_unknown_name_is_one_sentence():
    with pytest.raises(ValueError, match="score_quality.backend is 'niqe'; known are piqe, hyperiqa"):
        quality.open_scorer("niqe")


def published_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """pyiqa's keys -> those of SSL92/hyperIQA, written down from its source, one by one."""
    names = {"fc_w_modules.4.2": "fc5w_fc", "lda_modules.3.2": "res.lda4_fc"}
    for n in (1, 2, 3, 4):
        names[f"fc_w_modules.{n - 1}"] = f"fc{n}w_conv"
    for n in (1, 2, 3, 4, 5):
        names[f"fc_b_modules.{n - 1}.2"] = f"fc{n}b_fc"
    for n in (1, 2, 3):
        names[f"lda_modules.{n - 1}.0"], names[f"lda_modules.{n - 1}.3"] = f"res.lda{n}_pool.0", f"res.lda{n}_fc"
    result = {}
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        foreign = f"{names[module]}.{tensor}" if module in names else key.replace("base_model.", "res.")
        result[foreign] = value
    return result


def test_hyperiqa_reads_the_published_file(weights_folder, face):
    torch.manual_seed(0)
    net = quality.build_hyperiqa().eval()
    foreign = published_names(net.state_dict())
    assert {
        "res.conv1.weight",
        "res.layer4.2.bn3.running_var",
        "res.lda1_pool.0.weight",
        "fc5b_fc.bias",
    } <= foreign.keys()
    (weights_folder / "auxiliary").mkdir()
    torch.save(foreign, weights_folder / "auxiliary" / "koniq_pretrained.pkl")
    score = quality.open_scorer("hyperiqa")
    crop = cv2.resize(face, (256, 256))
    with torch.no_grad():
        centre = torch.from_numpy(crop[16:240, 16:240].copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
        wanted = float(net.forward_patch(centre))
    assert score(crop) == pytest.approx(wanted, abs=1e-5)
    # The whole face is judged at 512 px too, not its middle.
    assert score(cv2.resize(crop, (512, 512), interpolation=cv2.INTER_CUBIC)) == pytest.approx(
        wanted, abs=0.05 * abs(wanted) + 1e-3
    )


def test_hyperiqa_without_its_file_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="koniq_pretrained.pkl is missing.*score_quality.backend: hyperiqa"):
        quality.open_scorer("hyperiqa")


def test_hyperiqa_refuses_another_file(weights_folder):
    (weights_folder / "auxiliary").mkdir()
    torch.save({"a.weight": torch.zeros(2)}, weights_folder / "auxiliary" / "koniq_pretrained.pkl")
    with pytest.raises(ValueError, match="does not fit the network as configured"):
        quality.open_scorer("hyperiqa")
