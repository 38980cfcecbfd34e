"""Pads to draw on, each with buttons that put a drawing there."""

import pathlib
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import gradio as gr

from keras_capsules.explorer import drawing
from keras_capsules.explorer import samples

_FOLDER = pathlib.Path(__file__).parent
# For all events. While something is computed, the page shows what it did; of
# many calls that wait, the last one is enough; answers come in their order.
QUIETLY = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "concurrency_id": "network",
}


class Drawing(NamedTuple):
    """A pad, and what else puts a drawing on it.

    Args:
        pad: The pad.
        clear: Its button that clears it.
        upload: Its button that takes a file.
        samples: Drawings to choose from.
    """

    pad: gr.HTML
    clear: gr.Button
    upload: gr.UploadButton
    samples: gr.Dataset


def make(name: str) -> Drawing:
    """Makes a pad.

    Args:
        name: String, what is drawn on it.
    """
    pad = gr.HTML(
        "",
        html_template=(
            f'<canvas width="{drawing.PAD}" height="{drawing.PAD}" role="img" '
            f'aria-label="Pad for the {name}. Without a pointer, take a sample '
            'or upload a picture."></canvas>'
        ),
        js_on_load=(_FOLDER / "pad.js").read_text(),
        elem_classes="pad",
    )
    with gr.Row():
        clear = gr.Button("Clear", size="sm", min_width=80)
        upload = gr.UploadButton(
            "Upload",
            file_types=["image"],
            type="binary",
            size="sm",
            min_width=80,
        )
    examples = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[digit] for digit in samples.STROKES],
        label="Samples",
        type="index",
    )
    return Drawing(pad, clear, upload, examples)


def on_change(
    drawn: Drawing,
    look: Callable[..., dict],
    inputs: list[Any],
    outputs: list[Any],
) -> None:
    """Calls a function when a drawing changes, in whichever way.

    Args:
        drawn: A `Drawing`.
        look: A function of the values of `inputs`. It returns a dictionary of
            new values of `outputs`.
        inputs: Components, the pad among them.
        outputs: Components.
    """
    place = inputs.index(drawn.pad)

    def put(address, given):
        given = [*given[:place], address, *given[place + 1 :]]
        return {drawn.pad: address, **look(*given)}

    def upload(content, *given):
        try:
            marks = drawing.ink(drawing.read(content))
            if marks is None:
                raise drawing.Unreadable(
                    "Nothing stands out from the background here."
                )
            address = drawing.to_pad(marks)
        except drawing.Unreadable as error:
            gr.Warning(str(error))
            return {drawn.pad: gr.skip()}
        return put(address, given)

    def sample(index, *given):
        marks = samples.draw(list(samples.STROKES)[index])
        return put(drawing.to_pad(marks), given)

    drawn.pad.input(look, inputs, outputs, **QUIETLY)
    # The page clears it at once: what still waits sees it cleared.
    cleared = drawn.clear.click(None, None, drawn.pad, js="() => ''")
    cleared.then(look, inputs, outputs, **QUIETLY)
    outputs = [drawn.pad, *outputs]
    drawn.upload.upload(upload, [drawn.upload, *inputs], outputs, **QUIETLY)
    drawn.samples.click(sample, [drawn.samples, *inputs], outputs, **QUIETLY)
