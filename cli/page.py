"""The page of `garment-transfer demo`, in Gradio."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Final

import gradio as gr
import numpy as np
import numpy.typing as npt

from garment_transfer.bundle import (
    BACKGROUND,
    CLASSES,
    GARMENT,
    LABEL_SETS,
    BundleError,
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
    maps_picture,
    sample_people,
)
from garment_transfer.runtime.photos import COLOURS, ENCODINGS, Fit, colour, unfit

_ASSETS: Final = Path(__file__).parent / "assets"

# Seed of the people that are rendered on request; those in the package have another.
_SEED: Final = 1

# Who is chosen: title, place among the people at first, and name in the page.
_ROLES: Final = (("Person", 4, "person"), ("Garment owner", 1, "owner"))

# Heights of pictures on the page.
_LARGE, _SMALL = 490, 340

_WARPED: Final = "<div class=note>The owner's photo, sampled by the flow.</div>"
_FLOW: Final = (
    "<div class=note>Where each pixel comes from: the hue is the direction, as on the wheel, a "
    "strong colour is far.</div>"
)

# Gradio calls the photos to choose from "Thumbnail 1 of 6" for both.
_GROUPS: Final = """() => {
  for (const [id, name] of [["person-choice", "Person"], ["owner-choice", "Garment owner"]]) {
    const group = document.getElementById(id);
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", name);
  }
}"""

_Image = npt.NDArray[np.uint8]

# What changes nothing on the page, for `gr.skip`.
_Skip = dict[str, str]


def built_in_people() -> list[Person]:
    """The people in the package: the sample pair, and some more in different garments."""
    # people out of an earlier renderer, in a studio's light, with the photo as JPEG
    more = sorted((_ASSETS / "people").iterdir())
    return [Person.load(folder) for folder in (*sample_people(), *more)]


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


def launch(blocks: gr.Blocks, host: str, port: int) -> None:
    """Serves the page from another thread. OSError where the port is taken."""
    # Fonts of the reader's machine: the page asks no other server for anything.
    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(font=fonts, font_mono=["monospace"], primary_hue="teal").set(
        # white on the usual one is too pale to read
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=theme,
        css_paths=_ASSETS / "page.css",
        footer_links=[],
        max_file_size="64mb",
        ssr_mode=False,
        js=_GROUPS,
    )


def page(pipelines: Mapping[str, Pipeline], people: Sequence[Person]) -> gr.Blocks:
    """The page: `people` to choose from, and the pipelines to run by the name of their backend.

    The first pipeline's result is shown; the times are everybody's.
    """

    def show(person: Person, owner: Person) -> tuple[_Image, _Image, _Image, _Image, str]:
        transfers = {name: each.transfer(person, owner) for name, each in pipelines.items()}
        transfer = next(iter(transfers.values()))
        parsing = transfer.transfer_parsing
        return (
            transfer.image,
            _on_white(colour(parsing), parsing != BACKGROUND),
            _on_white(transfer.warped_garment, parsing == GARMENT),
            flow_picture(transfer, pipeline.fit(person)),
            _times(transfers, pipeline.size),
        )

    def run(person: Person, owner: Person) -> tuple[_Image | str | _Skip, ...]:
        try:
            return show(person, owner)
        except GarmentTransferError as error:
            gr.Warning(escape(str(error)), duration=None, title="No transfer")
            return (gr.skip(),) * len(outputs)

    pipeline = next(iter(pipelines.values()))

    # The first transfer is slower than all others, so what is shown is a second one.
    start = [people[place] for _, place, _ in _ROLES]
    show(*start)
    image, parsing, warped, flow, times = show(*start)
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
            chosen = [_choice(title, people, start, elem_id) for title, start, elem_id in _ROLES]
            with gr.Column(min_width=260):
                _html("<h2>Result</h2>")
                outputs: list[gr.Component] = [_picture(image, "result", "Result", _LARGE, True)]
                button = gr.Button("Transfer", variant="primary", size="lg", elem_id="transfer")
        with gr.Row():
            for title, picture, elem_id, note in (
                ("Transfer parsing", parsing, "parsing", _legend()),
                ("Warped garment", warped, "warped", _WARPED),
                ("Flow", flow, "flow", _FLOW),
            ):
                with gr.Column(min_width=200):
                    _html(f"<h2>{title}</h2>")
                    outputs.append(_picture(picture, elem_id, title, _SMALL))
                    _html(note)
            with gr.Column(min_width=200):
                _html("<h2>Time</h2>")
                outputs.append(_html(times, "times", "times"))
        with gr.Accordion("Your own photos", open=False, elem_id="own"), gr.Row():
            for (title, _, elem_id), (state, photo) in zip(_ROLES, chosen, strict=True):
                _upload(title, state, photo, elem_id, pipeline)
        button.click(run, [state for state, _ in chosen], outputs, show_progress_on=outputs[0])
    return blocks


def _html(text: str, elem_id: str | None = None, elem_class: str = "text") -> gr.HTML:
    return gr.HTML(text, elem_id=elem_id, padding=False, elem_classes=["text", elem_class])


def _picture(image: _Image, elem_id: str, title: str, height: int, save: bool = False) -> gr.Image:
    return gr.Image(
        image,
        alt_text=title,
        show_label=False,
        interactive=False,
        height=height,
        format="png",
        buttons=["download", "fullscreen"] if save else [],
        elem_id=elem_id,
        elem_classes="photo",
    )


def _choice(
    title: str, people: Sequence[Person], start: int, elem_id: str
) -> tuple[gr.State, gr.Image]:
    """A column with somebody's photo, and everybody's small ones to choose another."""
    with gr.Column(min_width=260):
        _html(f"<h2>{title}</h2>")
        photo = _picture(people[start].image, elem_id, title, _LARGE)
        gallery = gr.Gallery(
            [person.image for person in people],
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

    def choose(event: gr.SelectData) -> tuple[Person, _Image]:
        return people[event.index], people[event.index].image

    gallery.select(choose, None, [state, photo], show_progress="hidden")
    return state, photo


def _upload(title: str, state: gr.State, photo: gr.Image, elem_id: str, pipeline: Pipeline) -> None:
    """A column in which a photo of the reader's own, or one with maps, takes the chosen's place."""
    by_meta = "as meta.json says"
    with gr.Column(min_width=260):
        _html(f"<h2>{title}</h2>")
        files = gr.File(
            label=f"{title}: a photo; or image.*, parse.png, densepose.*, meta.json",
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
        button = gr.Button(f"Use as {title.lower()}", elem_id=f"{elem_id}-use")
        seen = gr.Image(
            label="Maps made of the photo",
            alt_text=f"{title}: maps made of the photo",
            visible=False,
            interactive=False,
            height=_SMALL,
            format="png",
            buttons=[],
            elem_id=f"{elem_id}-maps",
        )

    def use(
        paths: list[str] | None, labels: str, encoded: str
    ) -> tuple[Person | _Skip, _Image | _Skip, gr.Image | _Skip]:
        with tempfile.TemporaryDirectory() as folder:
            for path in paths or ():
                shutil.copy(path, folder)
            given = list(Path(folder).iterdir())
            try:
                person = pipeline.person(
                    given[0] if len(given) == 1 and given[0].suffix != ".json" else folder,
                    None if labels == by_meta else labels,
                    None if encoded == by_meta else encoded,
                )
            except (BundleError, InputError) as error:
                message = str(error).replace(f"{folder}/", "").replace(folder, "the upload")
                gr.Warning(escape(message), duration=None, title="These files cannot be used")
                return gr.skip(), gr.skip(), gr.skip()
        shown = bool(person.confidence)
        picture = gr.Image(maps_picture(person) if shown else None, visible=shown)
        return replace(person, name=""), person.image, picture

    button.click(use, [files, label_set, encoding], [state, photo, seen])


def _on_white(picture: _Image, where: npt.NDArray[np.bool_]) -> _Image:
    return np.where(where[..., None], picture, np.uint8(255))


def flow_picture(transfer: Transfer, fit: Fit) -> _Image:
    """The flow in the garment, at the photo's size, with its colour wheel in a corner."""
    height, width = transfer.transfer_parsing.shape
    flow = unfit(fit, transfer.flow.transpose(1, 2, 0))
    garment = transfer.transfer_parsing == GARMENT
    lengths = np.hypot(flow[..., 0], flow[..., 1])[garment]
    longest = float(np.percentile(lengths, 90)) if lengths.size else 1.0
    picture = _on_white(flow_colours(flow, longest), garment)
    side = min(height, width) // 5
    if not side:
        return picture
    margin = side // 6
    picture[height - side - margin : height - margin, width - side - margin : width - margin] = (
        flow_wheel(side)
    )
    return picture


def _legend() -> str:
    entries = (
        f"<span><i style='background: rgb{COLOURS[label]}'></i>{name}</span>"
        for label, name in enumerate(CLASSES)
        if label != BACKGROUND
    )
    return f"<div class=legend>{''.join(entries)}</div>"


def _times(transfers: Mapping[str, Transfer], size: Size) -> str:
    """Milliseconds per stage, a column per backend."""

    def row(name: str, cells: Iterable[str], cell: str = "td") -> str:
        return f"<tr><td>{name}</td>{''.join(f'<{cell}>{text}</{cell}>' for text in cells)}</tr>"

    columns = [transfer.timings for transfer in transfers.values()]
    longest = max(max(column.values()) for column in columns)
    rows = [row("", (f"{escape(name)}, ms" for name in transfers), "th")]
    for stage, milliseconds in columns[0].items():
        bar = f"<div class=bar style='width: {100 * milliseconds / longest:.0f}%'></div>"
        rows.append(row(f"{stage}{bar}", (f"{column[stage]:.1f}" for column in columns)))
    rows.append(row("all", (f"{sum(column.values()):.1f}" for column in columns)))
    height, width = next(iter(transfers.values())).transfer_parsing.shape
    return (
        f"<table>{''.join(rows)}</table><div class=note>Height x width: photo {height}x{width}, "
        f"networks {size.height}x{size.width}.</div>"
    )
