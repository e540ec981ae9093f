"""The dataset card: what users of the selected clips must know. page.py writes it as Markdown, too.

It names no source and no speaker, so that it can be passed on where the footage cannot. It contains no date and no
absolute path: the same clips give the same bytes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from latentsync.curation.funnel import hours
from latentsync.curation.selection import SPLITS
from latentsync.ledger.columns import REASONS, Clip, OfSource, columns, names_of
from latentsync.ledger.consent import Coverage, grant_of
from latentsync.ledger.rows import Row, length_s
from latentsync.report.words import sentence
from latentsync.sync.scorers import SCORERS

NOT_STATED = "not stated"
LISTED = 12  # values of a distribution; the rest are counted as "other"
QUANTILES = {"min": 0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1}
SOURCE_FACTS = names_of(OfSource, "card")
NOT_MEASURES = columns(Clip).keys() - names_of(Clip, "measure")
PROPERTIES = {
    "fps": "Frame rates",
    "resolution": "Frame sizes",
    "video_codec": "Video codecs",
    "pix_fmt": "Pixel formats",
    "audio_rate_hz": "Sample rates, Hz",
}
SCALES = {
    **{name: scorer.scale for name, scorer in SCORERS.items()},
    "piqe": "(100 - PIQE) times the share of blocks that PIQE does not call noisy; 0 to 100, higher is better",
    "hyperiqa": "HyperIQA with KonIQ-10k weights; 0 to 100, higher is better, LatentSync keeps 40 and more",
}


def make(
    *,
    name: str,
    synthetic: bool,
    selection: Mapping[str, Any],
    selected: Sequence[Row],
    rejected: Sequence[Row],
    sources: Mapping[str, Mapping[str, Any]],
    speakers: Mapping[str, Any],
    sections: Mapping[str, Any],
    versions: Mapping[str, int],
    parts: Mapping[str, str],
    licence: str | None,
    coverage: Coverage | None,
) -> dict[str, Any]:
    """The card as JSON. `selection`: summary.json of select_clips; `sources`: SOURCE_FACTS of all sources, by id;
    `speakers`: the result of speakers.summarise; `sections`: configuration of the steps that ran, by step;
    `coverage`: what the table of consents says, None: not checked.
    """
    found = next(stage for stage in selection["funnel"] if stage["stage"] == "found")
    used = [sources[source] for source in sorted({row["source_id"] for row in selected})]
    return {
        "name": name,
        "footage": "synthetic talking heads" if synthetic else "videos given by the user",
        "licence": licence or NOT_STATED,
        "consent": NOT_STATED if coverage is None else _consent(selected, coverage),
        "counts": {
            "clips": len(selected),
            "hours": hours(selected),
            "sources": len(used),
            "groups": speakers["groups_n"],
            "speakers_named": speakers["named_n"],
            "sources_found": found["left"],
            "hours_found": found["hours"],
        },
        "splits": {
            split: {
                **{key: selection["splits"][split][key] for key in ("clips", "sources", "hours")},
                "groups": len(selection["splits"][split]["groups"]),
            }
            for split in SPLITS
        },
        "measures": measures(selected),
        "sources": {
            "fps": _shares(f"{round(row['fps'], 2):g}" for row in used if row.get("fps")),
            "resolution": _shares(f"{row['width']} x {row['height']}" for row in used if row.get("width")),
            "video_codec": _shares(row["video_codec"] for row in used if row.get("video_codec")),
            "pix_fmt": _shares(row["pix_fmt"] for row in used if row.get("pix_fmt")),
            "audio_rate_hz": _shares(str(row["audio_rate_hz"]) for row in used if row.get("audio_rate_hz")),
        },
        "scorers": {
            what: [{"name": scorer, "scale": SCALES.get(scorer, f"that of {scorer}")} for scorer in names]
            for what, names in selection["backends"].items()
        },
        "face_detector": sections["align_faces"]["backend"],
        "crop_px": sections["align_faces"].get("resolution"),
        "thresholds": _thresholds(selection),
        "rejected": rejections(rejected),
        "duplicates": sum("duplicate" in row["reason"] for row in rejected),
        "configuration": {step: _without_places(section) for step, section in sections.items()},
        "versions": {"steps": dict(versions), "parts": dict(parts)},
        "stand_ins": list(selection["stand_ins"]),
        "limits": _limits(selection, speakers),
    }


def _consent(selected: Sequence[Row], coverage: Coverage) -> str:
    grants = [grant_of(coverage, path, "training") for path in sorted({row["path"] for row in selected})]
    known = [grant for grant in grants if grant is not None]
    assert len(known) == len(grants), "a clip without consent was selected"
    documents = len({grant.document for grant in known if grant.document})
    first = min((grant.until for grant in known if grant.until), default=None)
    end = f"the first ends on {first}" if first else "without an end"
    return f"given for training for every video ({documents} signed documents named); {end}"


def _without_places(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without folders of this machine: of every path the name alone."""
    places = ("weights", "whisper_weights", "vae_weights", "speakers")
    return {key: Path(value).name if key in places and value else value for key, value in section.items()}


def _thresholds(selection: Mapping[str, Any]) -> dict[str, Any]:
    least_or_most = ("min_", "max_")
    return {k: at for k, at in selection["thresholds"].items() if k.startswith(least_or_most) and k != "max_pairs"}


def measures(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Column -> quantiles over the clips that have it (`n` of them); every column that measures a clip."""
    numbers = pd.DataFrame(rows).select_dtypes("number")
    measured = sorted(name for name in numbers if name not in NOT_MEASURES)
    quantiles = cast(pd.DataFrame, numbers[measured].quantile(list(QUANTILES.values())))
    points = quantiles.set_axis(list(QUANTILES))
    found = {}
    for name in measured:
        found[name] = {"n": int(numbers[name].count()), **{at: round(q, 4) for at, q in points[name].items()}}
    return found


def _shares(values: Iterable[str]) -> dict[str, int]:
    counts = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    shown = dict(counts[:LISTED])
    return shown | ({"other": sum(count for _, count in counts[LISTED:])} if len(counts) > LISTED else {})


def rejections(rejected: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Reason -> rows and hours rejected; a whole file counts with the length that its container states, if any."""
    found = {}
    for reason, words in REASONS.items():
        rows = [row for row in rejected if row["reason"] == reason]
        if rows:
            seconds = [length_s(row) or row.get("duration_s") or 0 for row in rows]
            length_h = round(sum(seconds) / 3600, 6) if any(seconds) else None
            found[reason] = {"rows": len(rows), "hours": length_h, "words": words}
    return found


def _limits(selection: Mapping[str, Any], speakers: Mapping[str, Any]) -> list[str]:
    found = [sentence(words) for words in selection["stand_ins"]]
    if selection["same_clips_in_all_splits"]:
        found.append("There were too few speakers or sources for three splits: all three hold the same clips.")
    if speakers["named_n"] < speakers["groups_n"]:
        who = "Some videos have no named speaker" if speakers["named_n"] else "No speakers are named"
        found.append(f"{who}; such a video counts as a speaker of its own, so one person may be in two splits.")
    if speakers["warning"]:
        found.append(f"One speaker holds {speakers['groups'][0]['share']:.0%} of the time.")
    off = [key for key, at in _thresholds(selection).items() if at is None]
    if off:
        found.append(f"These thresholds were off and rejected nothing: {', '.join(off)}.")
    return [
        *found,
        "Scores are measured by models; the clips have not been reviewed by people.",
        "Offsets are whole frames of 1/25 s; the audio files are not shifted, offset_frames is the offset to apply.",
        "Crops are one lossy H.264 generation away from the source.",
    ]
