"""The page in Gradio: what is where, and which function each button and each endpoint calls."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from latentsync.config import MARKING_SENTENCE, Preset
from latentsync.faces.backends import BACKENDS
from latentsync.page import html, options, weights_on_disk
from latentsync.page.actions import PREVIEW_S, Page
from latentsync.page.jobs import ENDED, Job, hours
from latentsync.page.options import Option
from latentsync.page.words import CONSENT

TITLE = "LatentSync Studio"
PRESETS = {"exact": "Exact", "balanced": "Balanced, half the time", "fast": "Fast, a quarter of the time"}
_SHOW_OUTCOME = "() => document.getElementById('outcome').scrollIntoView({block: 'nearest', behavior: 'smooth'})"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def component(option: Option) -> Any:
    """The input for an option: its label, meaning, default, choices and limits."""
    shown: dict[str, Any] = {"label": option.label, "info": option.meaning, "value": option.default}
    least, most = option.limits
    if option.choices:
        choices = [*([option.off] if option.off else []), *option.choices]
        shown["value"] = option.default or option.off
        return gr.Dropdown(choices, **shown)
    if least is not None and most is not None and option.default is not None and most <= 100:
        return gr.Slider(least, most, step=1 if option.whole else 0.05, **shown)
    if isinstance(option.default, bool):
        return gr.Checkbox(**shown)
    if option.default is None:  # of Gradio's number fields, an empty one becomes 0 as soon as it is shown
        shown["value"] = ""
        return gr.Textbox(**shown, placeholder=option.placeholder)
    return gr.Number(**shown, precision=0 if option.whole else None)


def build(page: Page, examples: Sequence[tuple[Path, Path]]) -> gr.Blocks:
    """The whole page."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        kept = gr.BrowserState(None, storage_key="latentsync-job", secret=page.folder.secret)
        gr.HTML(_head(page), elem_id="head")
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=5, min_width=300):
                given = _inputs(page, examples)
                with gr.Row(elem_id="go"):
                    start = gr.Button("Lip-sync", variant="primary", elem_id="start", scale=2)
                    preview = gr.Button(f"Preview, {PREVIEW_S:g} s", elem_id="preview", scale=1)
            with gr.Column(scale=6, min_width=300, elem_id="outcome"):
                state = gr.HTML(html.EMPTY, elem_id="state")
                cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
                player = gr.HTML("", elem_id="player")
        shown = [state, player, start, preview, cancel]
        _buttons(page, blocks, given, kept, shown)
        _endpoints(page, given)
        blocks.queue(default_concurrency_limit=4, max_size=200)
    return blocks


def _head(page: Page) -> str:
    limits = page.limits
    text = (
        f"Give a video of a person and speech; the mouth is redrawn so that the person says it. At most "
        f"{limits.max_s:g} s and {limits.max_mb} MB a file. Uploads and results are deleted after "
        f"{hours(limits.keep_hours * 3600)}; only your browser knows where they are."
    )
    missing = "" if page.weights else f'<p class="missing" role="alert">{weights_on_disk.HOW_TO_GET}</p>'
    return f"<header><h1>{TITLE}</h1><p>{text}</p>{missing}</header>"


def _inputs(page: Page, examples: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
    """All inputs by the name that programs give them."""
    given: dict[str, Any] = {}
    with gr.Row():
        given["video"] = gr.Video(label="Video", sources=["upload"], elem_id="video", min_width=240, height=260)
        with gr.Column(min_width=240):
            sources: Any = ["upload", "microphone"]
            given["audio"] = gr.Audio(
                label="Speech", type="filepath", sources=sources, elem_id="audio", editable=False, buttons=[],
            )  # fmt: skip
    if examples:
        gr.Examples([[str(one) for one in pair] for pair in examples], [given["video"], given["audio"]],
                    label="Examples: synthetic talkers", api_visibility="private")  # fmt: skip
    with gr.Row():
        choices = [(one.title, one.name) for one in page.weights]
        first = page.weights[0] if page.weights else None
        given["weights"] = gr.Dropdown(
            choices, value=first and first.name, label="Weights", info=first.sentence if first else "None here.",
            elem_id="weights", min_width=240,
        )  # fmt: skip
        presets = [(PRESETS[name], name) for name in get_args(Preset)]
        given["preset"] = gr.Radio(presets, value="exact", label="Quality", elem_id="preset", min_width=240)
    with gr.Accordion("Which face", open=False, elem_id="faces"):
        given["face"] = gr.Dropdown(
            ["largest", "speaking", "left", "right"], value=options.FACE.default, label="Face that is redrawn",
            info="Or a number below, or x,y: a point of the frame in pixels", allow_custom_value=True, elem_id="face",
        )  # fmt: skip
        find = gr.Button("Show the faces of the video", size="sm", elem_id="find-faces")
        gallery = gr.Gallery(label="Faces; choose one", columns=4, height="auto", visible=False, elem_id="gallery",
                             allow_preview=False, buttons=[])  # fmt: skip
    with gr.Accordion("Enhance the face", open=False, elem_id="enhance"):
        for option in (*options.ENHANCING, *options.ENHANCING_MORE):
            given[option.name] = component(option)
    with gr.Accordion("More options", open=False, elem_id="more"):
        given["high_quality"] = gr.Checkbox(label="High quality", info="A larger file with hardly any loss (CRF 8)")
        with gr.Row():
            given["start_s"] = gr.Number(0, label="From second", info="Of the video; before it nothing is redrawn",
                                         min_width=140)  # fmt: skip
            given["end_s"] = gr.Textbox("", label="Up to second", info="Empty: to the end", placeholder="end",
                                        min_width=140)  # fmt: skip
        for option in (*options.TIMING, *options.DRAWING, *options.OUTPUT, *options.MARKING):
            given[option.name] = component(option)
        given["faces"] = gr.Dropdown(
            [name for name, backend in BACKENDS.items() if _is_here(backend.weights)], value="mediapipe",
            label="Face detector", info="Best the one of the training data",
        )  # fmt: skip
    given["consent"] = gr.Checkbox(label=CONSENT, info=MARKING_SENTENCE, elem_id="consent")
    _choose(page, given, find, gallery)
    return given


def _is_here(names: Sequence[str]) -> bool:
    from latentsync.weights import registry

    return all(file.path.exists() for name in names for file in registry.entry(name).files)


def _choose(page: Page, given: dict[str, Any], find: gr.Button, gallery: gr.Gallery) -> None:
    """What changes while a user chooses."""
    by_name = {one.name: one.sentence for one in page.weights}
    given["weights"].change(
        lambda name: gr.Dropdown(info=by_name.get(name, "")), given["weights"], given["weights"], **QUIET
    )

    def show_preset(preset: Any) -> Any:
        return gr.Textbox(placeholder=str(options.of_preset(preset, "steps")))

    given["preset"].change(show_preset, given["preset"], given["steps"], **QUIET)

    def show_faces(video: str | None, faces: Any) -> tuple[Any, Any]:
        thumbnails, numbers = _said(page.find_faces, video, faces)
        choices = ["largest", "speaking", "left", "right", *numbers]
        return gr.Gallery(thumbnails, visible=True), gr.Dropdown(choices=choices)

    find.click(show_faces, [given["video"], given["faces"]], [gallery, given["face"]], concurrency_limit=1,
               show_progress_on=find, api_visibility="private")  # fmt: skip

    def choose_face(event: gr.SelectData) -> str:
        return str(event.index + 1)

    gallery.select(choose_face, None, given["face"], **QUIET)
    given["video"].change(
        lambda: (gr.Gallery(visible=False), options.FACE.default), None, [gallery, given["face"]], **QUIET
    )


def _said(function: Any, *arguments: Any) -> Any:
    """Call a function; what it says to the user is shown as it is."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from None


def _buttons(page: Page, blocks: gr.Blocks, given: dict[str, Any], kept: gr.BrowserState, shown: list[Any]) -> None:
    """Start, preview, cancel, and finding a job again when the page is loaded."""

    def idle(state: str, player: str = "") -> tuple[Any, ...]:
        return state, player, gr.Button(interactive=True), gr.Button(interactive=True), gr.Button(visible=False)

    def begin(preview: bool) -> Any:
        def function(request: gr.Request, **values: Any) -> tuple[Any, ...]:
            try:
                job = page.submit(values | {"preview": preview}, request.username)
            except ValueError as error:
                return None, *idle(html.refusal(str(error)))
            return job.id, *display(job)

        return function

    def display(job: Job) -> tuple[Any, ...]:
        state = html.state(page.jobs.snapshot(job))
        if job.state in ENDED:
            files = page.result(job) if job.state == "done" else None
            return idle(state, html.player(*files, hours(page.jobs.keep_s)) if files else "")
        off = gr.Button(interactive=False)
        return state, "", off, gr.Button(interactive=False), gr.Button(visible=True, interactive=True)

    async def follow(ident: str | None, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        try:
            job = page.jobs.find(ident, request.username)
        except ValueError:  # nothing was started, or what was started is long gone
            yield tuple(gr.skip() for _ in shown)
            return
        yield display(job)
        async for snapshot in page.watch(job):
            skip = gr.skip()
            yield display(job) if snapshot["state"] in ENDED else (html.state(snapshot), skip, skip, skip, skip)

    def stop(ident: str | None, request: gr.Request) -> tuple[Any, ...]:
        page.jobs.cancel(ident, request.username)
        return (gr.Button(interactive=False),)

    watching: dict[str, Any] = QUIET | {"concurrency_limit": None}
    for number, preview in ((2, False), (3, True)):
        started = shown[number].click(
            begin(preview), None, [kept, *shown], inputs_kwargs=given, scroll_to_output=False, **QUIET
        )
        shown[number].click(None, js=_SHOW_OUTCOME, api_visibility="private")
        started.success(follow, kept, shown, **watching)
    shown[4].click(stop, kept, shown[4], **QUIET)
    blocks.load(follow, kept, shown, **watching)


def _endpoints(page: Page, given: dict[str, Any]) -> None:
    """The same functions for programs; docs/page.md shows them."""

    def start(request: gr.Request, **values: Any) -> str:
        return _said(page.submit, values, request.username).id

    async def watch(job: str, request: gr.Request) -> AsyncIterator[Mapping[str, Any]]:
        async for snapshot in page.watch(_said(page.jobs.find, job, request.username)):
            yield snapshot

    def result(job: str, request: gr.Request) -> tuple[str, str]:
        _, video, report = _said(page.result, _said(page.jobs.find, job, request.username))
        return str(video), str(report)

    def cancel(job: str, request: gr.Request) -> None:
        _said(page.jobs.cancel, job, request.username)

    def weights() -> list[dict[str, Any]]:
        return [{"name": one.name, "title": one.title, "about": one.sentence} for one in page.weights]

    def faces(video: str | None, faces: str) -> Any:
        return _said(page.find_faces, video, faces)[0]

    job, answer = gr.Textbox(visible=False, label="job"), gr.JSON(visible=False, label="state")
    video, report = gr.File(visible=False, label="video"), gr.File(visible=False, label="report")
    thumbnails, call = gr.Gallery(visible=False, label="faces"), gr.Button(visible=False)
    preview = gr.Checkbox(False, visible=False, label=f"first {PREVIEW_S:g} s only")
    programs: dict[str, Any] = given | {"preview": preview}
    call.click(start, None, job, inputs_kwargs=programs, api_name="start")
    call.click(watch, job, answer, api_name="watch", concurrency_limit=None)
    call.click(result, job, [video, report], api_name="result")
    call.click(cancel, job, None, api_name="cancel")
    call.click(weights, None, answer, api_name="weights")
    call.click(faces, [given["video"], given["faces"]], thumbnails, api_name="faces", concurrency_limit=1)
