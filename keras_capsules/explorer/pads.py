"""Pads to draw on, each with buttons that put a drawing there."""

import functools
import json
import pathlib

import gradio as gr

from keras_capsules.explorer import drawing
from keras_capsules.explorer import samples

_FOLDER = pathlib.Path(__file__).parent
# For all events. While something is computed, the page shows what it did. Of
# many calls that wait, only the last one is made.
QUIETLY = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "concurrency_id": "network",
}


def make(name: str) -> gr.HTML:
    """Makes a pad, with buttons that clear it or put a drawing on it.

    Its value is the address of the picture, or nothing. Its event `input` tells
    of each change, made with the pen or by a button.

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
    # In the browser, at once: an answer of the process could come after later
    # acts. An upload has to go there, and counts if the pad is as it was.
    clear.click(None, None, pad, js="() => ''")
    examples.click(None, examples, pad, js=f"(index) => {_drawn()}[index]")
    found = gr.JSON(visible=False)
    upload.upload(_uploaded, [upload, pad], found, **QUIETLY).then(
        None,
        [pad, found],
        pad,
        js="(now, found) => (found?.before === now ? found.picture : now)",
    )
    return pad


def _uploaded(content, before):
    """The picture on the pad, and what was there; `None` if it is unusable."""
    try:
        marks = drawing.ink(drawing.read(content))
        if marks is not None:
            return {"before": before, "picture": drawing.to_pad(marks)}
        gr.Warning("Nothing stands out from the background here.")
    except drawing.Unreadable as error:
        gr.Warning(str(error))
    return None


@functools.cache
def _drawn():
    """All samples as the pad has them, a list in JavaScript."""
    return json.dumps(
        [drawing.to_pad(samples.draw(digit)) for digit in samples.STROKES]
    )
