"""Start the page: one process that serves it and does its jobs."""

import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from threading import Event

from latentsync.ledger.files import iterate_ledger
from latentsync.page.actions import Limits, Page
from latentsync.page.folder import EXAMPLES, MARKER, Folder, remove
from latentsync.page.inputs import placed
from latentsync.page.weights_on_disk import Weights

N_EXAMPLES = 3


def serve(
    folder: Folder,
    weights: list[Weights],
    limits: Limits,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    auth: Sequence[tuple[str, str]] = (),
    root_path: str = "",
    stop: Event | None = None,
) -> None:
    """Serve the page until the process is stopped.

    Args:
        folder: its own folder.
        weights: what it offers; the first is what it starts with.
        limits: of one user.
        host, port: where it listens.
        share: make a public link, by Gradio's servers.
        auth: (user, password) of everybody who may use it; nobody in it: everybody may.
        root_path: where a proxy puts it, such as /lipsync.
        stop: ends it when set; None: only Ctrl-C does.

    Raises:
        OSError: the port is taken.
    """
    start_s = time.perf_counter()
    # Before Gradio is imported: it would ask its makers for news, and keep files elsewhere.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder.path)}
    os.environ["GRADIO_CACHE_DIR"] = str(folder.path / "gradio")  # is served as well
    from gradio.themes import Base

    from latentsync.page.layout import build

    page, here = Page(folder, weights, limits), Path(__file__).parent
    blocks = build(page, _examples(folder, weights))
    theme = Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(  # enough contrast for small text and for what must be found
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        border_color_primary="*neutral_300",
        border_color_primary_dark="*neutral_600",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
    try:
        _, address, public = blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=list(auth) or None,
            root_path=root_path,
            blocked_paths=[str(folder.path / MARKER)],
            max_file_size=f"{limits.max_mb}mb",
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=theme,
            css_paths=here / "style.css",
            head=f"<script>{(here / 'player.js').read_text(encoding='utf-8')}</script>",
        )
        print(f"latentsync: the page is at {public or address} after {time.perf_counter() - start_s:.1f} s", flush=True)
        page.start_working()
        (stop or Event()).wait()
    finally:
        blocks.close(verbose=False)
        page.close()


def _examples(folder: Folder, weights: Sequence[Weights]) -> list[tuple[Path, Path]]:
    """Synthetic talkers of a run whose weights are offered, each with the speech of the next one."""
    from latentsync.media.audio import read_audio
    from latentsync.media.write import write_flac

    remove(folder.path / EXAMPLES)
    for run in (Path(one.name) for one in weights):
        held_out = run / "select_clips" / "test.jsonl"
        if (run / "make_talkers").is_dir() and held_out.is_file():
            paths = list(dict.fromkeys(row["path"] for row in iterate_ledger(held_out)))[: N_EXAMPLES + 1]
            talkers = [run / "make_talkers" / "videos" / path for path in paths]
            break
    else:
        return []
    (folder.path / EXAMPLES).mkdir()
    examples = []
    for number, (video, speaker) in enumerate(pairwise(talkers), 1):
        audio = folder.path / EXAMPLES / f"speech-{number}.flac"
        write_flac(audio, read_audio(speaker))
        examples.append((placed(video, folder.path / EXAMPLES / f"talker-{number}"), audio))
    return examples
