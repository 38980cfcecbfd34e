"""Pads to draw on, each with buttons that put a drawing there."""

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
    uploaded = upload.upload(_uploaded, upload, pad, **QUIETLY)
    # In the browser, at once: an answer of the process could come after later
    # acts. So could a picture that is uploaded, which these call off.
    addresses = json.dumps([*map(_address, samples.STROKES)])
    for act, source, js in (
        (clear.click, None, "() => ''"),
        (examples.click, examples, f"(index) => {addresses}[index]"),
    ):
        act(None, source, pad, js=js, cancels=[uploaded])
    return pad


def _uploaded(content):
    try:
        marks = drawing.ink(drawing.read(content))
        if marks is None:
            raise drawing.Unreadable(
                "Nothing stands out from the background here."
            )
        return drawing.to_pad(marks)
    except drawing.Unreadable as error:
        gr.Warning(str(error))
        return gr.skip()


def _address(digit):
    return drawing.to_pad(samples.draw(digit))
