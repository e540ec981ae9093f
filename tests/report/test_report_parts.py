"""Parts of the page by themselves: curves, axes, numbers in words."""

import numpy as np
import pytest

from latentsync.ledger.columns import REASONS
from latentsync.report import curation, measures, page, plots, training, words


def test_curve_leaves_out_blanks_and_thins(tmp_path):
    lines = ["step,loss,val_recon", *(f"{k},{2 * k},{'' if k % 2 else k}" for k in range(1, 1001)), "1001,nan,"]
    (tmp_path / "curve.csv").write_text("\n".join(lines))
    curve = training.read_curve(tmp_path / "curve.csv")
    assert len(curve["loss"]) == 1000 and next(curve["val_recon"].items()) == (2, 2.0)
    steps, values = training.thin(curve["loss"])
    assert len(steps) == 334 and steps[0] == 3 and values[0] == 4.0
    (tmp_path / "none.csv").write_text("step,loss\n")
    assert training.summarise("train_unet_stage1", tmp_path / "none.csv")["reason"] == "The curve is empty."


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.95), (3, 1250), (0.0012, 0.0031), (5, 5)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = plots.nice_ticks(low, high)
    assert 1 <= len(ticks) <= 11 and all(low <= tick <= high for tick in ticks)
    assert all(len(plots.number(tick)) <= 7 for tick in ticks)


def test_numbers_on_the_page():
    assert page.num(0.98749, 2) == '<data value="0.98749">0.99</data>'
    assert (
        words.plain(-0.001, 2) == "0.00"
        and words.plain(-3.14159, 2) == "−3.14"
        and words.plain(12345.6, 0) == "12\u202f346"
    )
    assert page.share(7, (0, 10)) == "70.00" and page.share(12, (0, 10)) == "100.00"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (89.4, "89 s"), (90, "1.5 min"), (5399, "90.0 min"), (5400, "1.5 h")],
)
def test_lengths_of_time(seconds, text):
    assert words.duration(seconds) == text
    number, unit = text.split()
    assert page.duration(seconds) == f'<data value="{seconds}">{number}</data> {unit}'
    assert words.duration(None) == page.duration(None) == "unknown"


def test_scores_without_a_threshold_have_histograms_too():
    """Real footage switches thresholds off: no marks to fit in."""
    edges = curation._edges("sync_confidence", np.array([0.9, 1.4, 2.8]), [])
    assert edges[0] <= 0.9 and edges[-1] >= 2.8 and (np.diff(edges) > 0).all()


def test_measures_and_reasons_are_named_in_words():
    names = {"jitter_px": "Jitter", "n_faces": "Number of faces", "quality": "Image quality", "odd_deg": "Odd deg"}
    assert {column: measures.title(column) for column in names} == names
    assert all("_" not in measures.meaning(column) for column in (*names, "sync_confidence", "remaining_confidence"))
    assert measures.meaning("odd_deg") == ""
    for reason in REASONS:  # its name stands beside it
        assert not measures.reason_words(reason).startswith(f"{measures.reason_name(reason)}:")
    said = "the face is 40 px wide; also low_sync: the sync confidence is 1.2; also not_speaking: another face speaks"
    words = "the face is 40 px wide; also low sync: the sync confidence is 1.2; also not speaking: another face speaks"
    assert measures.in_words(said) == words and measures.in_words("also no_sync.mp4") == "also no_sync.mp4"


def test_every_reason_has_a_stage_of_the_funnel():
    # no_face is of segments without clips, not_redrawn of generated videos, not_video of files that are none
    assert set(REASONS) <= set(curation.STAGES) | {"no_face", "not_redrawn", "not_video"}
