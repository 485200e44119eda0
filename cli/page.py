"""The page of `garment-transfer demo`, in Gradio."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, Final

import gradio as gr
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    BACKGROUND,
    CLASSES,
    GARMENT,
    LABEL_SETS,
    GarmentTransferError,
    InputError,
    Size,
)
from garment_transfer.runtime import (
    Person,
    Pipeline,
    Transfer,
    flow_colours,
    flow_wheel,
    sample_people,
)
from garment_transfer.runtime.photos import COLOURS, ENCODINGS, Fit, colour

# Numbers 37, 34, 6 and 27 of `render --seed 77 --size 512x384 --rough`, with the photo as JPEG.
_PEOPLE: Final = Path(__file__).parent / "assets" / "people"

# Seed of the people that are rendered on request; those in the package have another.
_SEED: Final = 1

_WHITE: Final = 255

# Who is chosen: title, place among the people at first, and name in the page.
_ROLES: Final = (("Person", 4, "person"), ("Garment owner", 1, "owner"))

# Heights of pictures on the page.
_LARGE, _SMALL = 490, 340

# What a transfer changes on the page.
_OUTPUTS: Final = 5

_CSS: Final = """
.gradio-container {max-width: 1180px !important; margin: auto !important}
.gradio-container, .gradio-container * {--body-text-color-subdued: #5b6472; --layout-gap: 14px}
.dark .gradio-container * {--body-text-color-subdued: #a3acba}
h1 {font-size: 1.6rem; font-weight: 650; margin: 0}
h3 {font-size: .95rem; font-weight: 600; margin: 0}
#title p {color: var(--body-text-color-subdued); margin: 0}
.text, .text .html-container, .text .prose {padding: 0 !important; margin: 0 !important}
.photo {border: 0 !important; background: white; border-radius: 6px}
.photo img {object-fit: contain !important}
.choice, .choice * {min-width: 0}
.choice {border: 0 !important; background: none !important}
.choice .grid-wrap {padding: 2px !important; height: auto !important; min-height: 0 !important;
  max-height: none !important; overflow: visible !important}
.choice .grid-container {display: grid !important; gap: 6px !important; padding: 0 !important;
  margin: 0 !important; width: 100% !important; height: auto !important;
  grid-template-columns: repeat(6, minmax(0, 1fr)) !important}
.choice .thumbnail-item, .choice .gallery-item {aspect-ratio: 3 / 4 !important;
  width: 100% !important; height: auto !important; border-radius: 5px}
.choice img {object-fit: cover !important; width: 100% !important; height: 100% !important}
.legend {display: flex; flex-wrap: wrap; gap: 2px 12px; font-size: .8rem}
.legend i {display: inline-block; width: .75em; height: .75em; border-radius: 2px;
  margin-right: .4em}
.times table {width: 100%; border-collapse: collapse; font-size: .88rem; margin: 0 0 8px !important;
  border: 0 !important}
.times td, .times th, .times tr {border: 0 !important; background: none !important}
.times td, .times th {padding: .5rem 0 !important; text-align: right !important;
  white-space: nowrap; font-variant-numeric: tabular-nums; vertical-align: bottom}
.times td:first-child, .times th:first-child {text-align: left !important; width: 50%}
.times th {font-weight: 500; color: var(--body-text-color-subdued)}
.times tr:last-child td {font-weight: 650; border-top: 1px solid #d5dae1 !important}
.times .bar {height: 3px; border-radius: 2px; background: var(--color-accent); margin-top: 3px}
.note {font-size: .8rem; line-height: 1.35; color: var(--body-text-color-subdued)}
"""


def built_in_people() -> list[Person]:
    """The people in the package: the sample pair, and some more in different garments."""
    return [Person.load(folder) for folder in (*sample_people(), *sorted(_PEOPLE.iterdir()))]


def rendered_people(count: int) -> list[Person]:
    """`count` people out of the renderer, with rough maps; the extra train."""
    if not count:
        return []
    from garment_transfer.training.synthetic import render_single, roughen

    people = []
    for index in range(count):
        rendered, rng = render_single(_SEED, index, (512, 384))
        people.append(Person.from_arrays(rendered.image, *roughen(rendered, rng)))
    return people


def launch(blocks: gr.Blocks, host: str, port: int, in_browser: bool) -> None:
    """Serves the page from another thread. OSError where the port is taken."""
    # Fonts of the reader's machine: the page asks no other server for anything.
    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(font=fonts, font_mono=["monospace"], primary_hue="teal")
    blocks.launch(
        server_name=host,
        server_port=port,
        inbrowser=in_browser,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=theme,
        css=_CSS,
        footer_links=[],
        max_file_size="64mb",
        ssr_mode=False,
    )


def page(pipelines: Mapping[str, Pipeline], people: Sequence[Person]) -> gr.Blocks:
    """The page: `people` to choose from, and the pipelines to run by the name of their backend.

    The first pipeline's result is shown; the times are everybody's.
    """

    def run(person: Person, owner: Person) -> tuple[Any, ...]:
        try:
            transfers = {
                name: pipeline.transfer(person, owner) for name, pipeline in pipelines.items()
            }
        except GarmentTransferError as error:
            gr.Warning(escape(str(error)), duration=None, title="No transfer")
            return (gr.skip(),) * _OUTPUTS
        pipeline, transfer = next(iter(pipelines.values())), next(iter(transfers.values()))
        return (
            transfer.image,
            _on_white(colour(transfer.transfer_parsing), transfer.transfer_parsing != BACKGROUND),
            _on_white(transfer.warped_garment, transfer.transfer_parsing == GARMENT),
            _flow_picture(transfer, pipeline.size),
            _times(transfers, pipeline.size),
        )

    # The first transfers are slower than all others, so these are not shown.
    start = [people[place] for _, place, _ in _ROLES]
    run(*start)
    shown = run(*start)
    thumbnails = [person.image for person in people]
    # Nobody is told who looks at the page.
    with gr.Blocks(
        title="Garment transfer",
        fill_width=True,
        analytics_enabled=False,
        delete_cache=(3600, 3600),
    ) as blocks:
        _html(
            "<h1>Garment transfer</h1><p>Choose a person, and whose garment they try on.</p>",
            elem_id="title",
        )
        with gr.Row():
            chosen = [
                _choice(title, people, thumbnails, start, elem_id)
                for title, start, elem_id in _ROLES
            ]
            with gr.Column(min_width=260):
                _html("<h3>Result</h3>")
                result = _picture(shown[0], "result", _LARGE, ["download", "fullscreen"])
                button = gr.Button("Transfer", variant="primary", size="lg", elem_id="transfer")
        with gr.Row():
            with gr.Column(min_width=200):
                _html("<h3>Transfer parsing</h3>")
                parsing = _picture(shown[1], "parsing", _SMALL)
                _html(_legend())
            with gr.Column(min_width=200):
                _html("<h3>Warped garment</h3>")
                warped = _picture(shown[2], "warped", _SMALL)
                _html("<div class=note>The owner's photo, sampled by the flow.</div>")
            with gr.Column(min_width=200):
                _html("<h3>Flow</h3>")
                flow = _picture(shown[3], "flow", _SMALL)
                _html(
                    "<div class=note>Where each pixel comes from: the hue is the direction, as on "
                    "the wheel, a strong colour is far.</div>"
                )
            with gr.Column(min_width=200):
                _html("<h3>Time</h3>")
                times = _html(shown[4], "times", "times")
        with gr.Accordion("Your own photos", open=False, elem_id="own"), gr.Row():
            for (title, _, elem_id), (state, photo) in zip(_ROLES, chosen, strict=True):
                _upload(title, state, photo, elem_id)
        button.click(
            run,
            [state for state, _ in chosen],
            [result, parsing, warped, flow, times],
            show_progress_on=result,
        )
    return blocks


def _html(text: str, elem_id: str | None = None, elem_class: str = "text") -> gr.HTML:
    return gr.HTML(text, elem_id=elem_id, padding=False, elem_classes=["text", elem_class])


def _picture(
    image: npt.NDArray[np.uint8], elem_id: str, height: int, buttons: Any = ()
) -> gr.Image:
    return gr.Image(
        image,
        show_label=False,
        interactive=False,
        height=height,
        format="png",
        buttons=list(buttons),
        elem_id=elem_id,
        elem_classes="photo",
    )


def _choice(
    title: str,
    people: Sequence[Person],
    thumbnails: list[npt.NDArray[np.uint8]],
    start: int,
    elem_id: str,
) -> tuple[gr.State, gr.Image]:
    """A column with somebody's photo, and everybody's small ones to choose another."""
    with gr.Column(min_width=260):
        _html(f"<h3>{title}</h3>")
        photo = _picture(people[start].image, elem_id, _LARGE)
        gallery = gr.Gallery(
            thumbnails,
            show_label=False,
            columns=6,
            height="auto",
            selected_index=start,
            allow_preview=False,
            interactive=False,
            format="jpeg",
            buttons=[],
            object_fit="cover",
            elem_id=f"{elem_id}-choice",
            elem_classes="choice",
        )
        state = gr.State(people[start])

    def choose(event: gr.SelectData) -> tuple[Person, npt.NDArray[np.uint8]]:
        person = people[event.index]
        return person, person.image

    gallery.select(choose, None, [state, photo], show_progress="hidden")
    return state, photo


def _upload(title: str, state: gr.State, photo: gr.Image, elem_id: str) -> None:
    """A column in which somebody's own files take the place of who is chosen."""
    by_meta = "as meta.json says"
    with gr.Column(min_width=260):
        _html(f"<h3>{title}</h3>")
        files = gr.File(
            label="image.*, parse.png, densepose.*, meta.json",
            file_count="multiple",
            type="filepath",
            height=150,
            elem_id=f"{elem_id}-files",
        )
        with gr.Row():
            label_set = gr.Dropdown(
                [by_meta, *sorted(LABEL_SETS)], label="Label set of the parsing"
            )
            encoding = gr.Dropdown([by_meta, *sorted(ENCODINGS)], label="DensePose encoding")
        button = gr.Button("Use these", elem_id=f"{elem_id}-use")

    def use(paths: list[str] | None, labels: str, encoded: str) -> tuple[Any, Any]:
        with tempfile.TemporaryDirectory() as folder:
            for path in paths or ():
                shutil.copy(path, folder)
            try:
                person = Person.load(
                    folder,
                    None if labels == by_meta else labels,
                    None if encoded == by_meta else encoded,
                )
            except InputError as error:
                message = str(error).replace(f"{folder}/", "").replace(folder, "the upload")
                gr.Warning(escape(message), duration=None, title="These files cannot be used")
                return gr.skip(), gr.skip()
        return replace(person, name=""), person.image

    button.click(use, [files, label_set, encoding], [state, photo])


def _on_white(
    picture: npt.NDArray[np.uint8], where: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    return np.where(where[..., None], picture, np.uint8(_WHITE))


def _flow_picture(transfer: Transfer, size: Size) -> npt.NDArray[np.uint8]:
    """The flow in the garment, at the photo's size, with its colour wheel in a corner."""
    height, width = transfer.transfer_parsing.shape
    fit = Fit(Size(height, width), size)
    flow = fit.unfit(transfer.flow.transpose(1, 2, 0))
    worn = transfer.transfer_parsing == GARMENT
    lengths = np.hypot(flow[..., 0], flow[..., 1])[worn]
    longest = float(np.percentile(lengths, 90)) if lengths.size else 1.0
    picture = _on_white(flow_colours(flow, longest), worn)
    side = min(height, width) // 5
    margin = side // 6
    picture[height - side - margin : height - margin, width - side - margin : width - margin] = (
        flow_wheel(side)
    )
    return picture


def _legend() -> str:
    return "<div class=legend>{}</div>".format(
        "".join(
            f"<span><i style='background: rgb{COLOURS[label]}'></i>{name}</span>"
            for label, name in enumerate(CLASSES)
            if label != BACKGROUND
        )
    )


def _times(transfers: Mapping[str, Transfer], size: Size) -> str:
    """Milliseconds per stage, a column per backend."""
    columns = [transfer.timings for transfer in transfers.values()]
    longest = max(max(column.values()) for column in columns)
    rows = [
        "<tr><td>{}<div class=bar style='width: {:.0f}%'></div></td>{}</tr>".format(
            stage,
            100 * columns[0][stage] / longest,
            "".join(f"<td>{column[stage]:.1f}</td>" for column in columns),
        )
        for stage in columns[0]
    ]
    names = "".join(f"<th>{escape(name)}, ms</th>" for name in transfers)
    total = "".join(f"<td>{sum(column.values()):.1f}</td>" for column in columns)
    height, width = next(iter(transfers.values())).transfer_parsing.shape
    return (
        f"<table><tr><th></th>{names}</tr>{''.join(rows)}"
        f"<tr><td>all</td>{total}</tr></table>"
        f"<div class=note>Height x width: photo {height}x{width}, networks "
        f"{size.height}x{size.width}.</div>"
    )
