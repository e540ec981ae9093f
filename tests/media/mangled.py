"""Files that something went wrong with: packets lost, repeated or out of order, clocks that jump, flipped bytes."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np

Packet = dict[str, Any]  # kind ("video" or "audio"), pts, dts, packet; data, if it is not that of the packet


def packets_of(path: Path) -> list[Packet]:
    """All packets of a file in its order; times in seconds."""
    with av.open(str(path)) as container:
        found = []
        for packet in container.demux(container.streams.video + container.streams.audio):
            if packet.size and packet.pts is not None:
                base = packet.time_base
                dts = packet.pts if packet.dts is None else packet.dts
                times = {"pts": float(packet.pts * base), "dts": float(dts * base)}
                found.append({"kind": packet.stream.type, "packet": packet, **times})
        return found


def remuxed(source: Path, out: Path, change: Callable[[list[Packet]], list[Packet]]) -> Path:
    """Write the packets of a file as `change` makes them; what the muxer refuses is left out."""
    with suppress(av.error.FFmpegError), av.open(str(source)) as container, av.open(str(out), "w") as target:
        streams = {}
        for stream in container.streams.video + container.streams.audio:
            streams[stream.type] = target.add_stream_from_template(stream)
        for entry in change(packets_of(source)):
            packet = av.Packet(entry.get("data", bytes(entry["packet"])))
            packet.stream, packet.time_base = streams[entry["kind"]], entry["packet"].time_base
            packet.is_keyframe = entry["packet"].is_keyframe
            packet.duration = entry["packet"].duration or 0
            packet.pts, packet.dts = (round(entry[name] / packet.time_base) for name in ("pts", "dts"))
            try:
                target.mux(packet)
            except (av.error.FFmpegError, OverflowError):
                continue
    return out


def moved(kind: str, from_s: float, by_s: float) -> Callable[[list[Packet]], list[Packet]]:
    """A clock that jumps: packets of a kind from some time on bear a time `by_s` later."""

    def change(packets: list[Packet]) -> list[Packet]:
        for one in packets:
            if one["kind"] == kind and one["pts"] >= from_s:
                one["pts"], one["dts"] = one["pts"] + by_s, one["dts"] + by_s
        return packets

    return change


def overwritten(numbers: Iterable[int], kept: float = 0.0) -> Callable[[list[Packet]], list[Packet]]:
    """Bytes of 255 in these packets of the video, numbered in the order of the file; `kept`: a share that is whole."""

    def change(packets: list[Packet]) -> list[Packet]:
        videos = [one for one in packets if one["kind"] == "video"]
        for number in numbers:
            data = bytes(videos[number]["packet"])
            whole = int(kept * len(data))
            videos[number]["data"] = data[:whole] + b"\xff" * (len(data) - whole)
        return packets

    return change


# --- random damage --------------------------------------------------------------------------------------------------

SUFFIXES = (".mkv", ".ts", ".avi", ".mp4")


def mangled(source: Path, out: Path, rng: np.random.Generator) -> Path:
    """A file with some random damage, beside `out` and with a suffix that suits it."""
    kind = rng.choice(["cut", "bytes", "holes", "shuffled", "dropped", "repeated", "times", "jumps", "joined"])
    data = source.read_bytes()
    if kind in ("cut", "bytes", "holes"):
        target = out.with_suffix(source.suffix)
        if kind == "cut":
            data = data[: int(rng.uniform(0.05, 1) * len(data))]
        elif kind == "bytes":
            changed = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(0, len(data), int(rng.choice([1, 10, 100, 1000])))
            changed[places] = rng.integers(0, 256, len(places))
            data = changed.tobytes()
        else:
            start = int(rng.uniform(0, 0.9) * len(data))
            data = data[:start] + bytes(int(rng.uniform(10, 50_000))) + data[start + int(rng.uniform(0, 50_000)) :]
        target.write_bytes(data)
        return target
    with av.open(str(source)) as container:
        modern = container.streams.video[0].codec_context.name == "hevc"
    target = out.with_suffix(str(rng.choice(SUFFIXES[:2] if modern else SUFFIXES)))
    if kind == "joined":
        part = remuxed(source, out.with_suffix(".part.ts"), lambda packets: packets)
        target = out.with_suffix(".ts")
        data = part.read_bytes()
        target.write_bytes(data[: int(rng.uniform(0.3, 1) * len(data)) // 188 * 188] + data)
        part.unlink()
        return target

    def change(packets: list[Packet]) -> list[Packet]:
        n, share = len(packets), float(rng.choice([0.01, 0.05, 0.3]))
        chosen = rng.random(n) < share
        if kind == "dropped":
            return [one for one, gone in zip(packets, chosen, strict=True) if not gone]
        if kind == "repeated":
            return [dict(one) for one, twice in zip(packets, chosen, strict=True) for _ in range(1 + int(twice))]
        if kind == "shuffled":
            order = np.arange(n)
            places = np.flatnonzero(chosen)
            order[places] = rng.permutation(places)
            return [packets[index] for index in order]
        if kind == "jumps":
            for _ in range(int(rng.integers(1, 4))):
                which = str(rng.choice(["video", "audio"]))
                at_s, by_s = (
                    rng.uniform(0, max(0.1, packets[n // 2]["pts"])),
                    rng.choice([-1e4, -60, -3, 0.7, 30, 5e3, 4e4]),
                )
                packets = moved(which, float(at_s), float(by_s))(packets)
            return packets
        for one, wrong in zip(packets, chosen, strict=True):
            if wrong:
                one["pts"] = one["dts"] = one["pts"] + float(rng.normal(0, rng.choice([0.01, 1, 1000])))
        return packets

    return remuxed(source, target, change)
