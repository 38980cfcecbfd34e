"""The page of the explorer, made of Gradio's parts."""

import functools
import os
import pathlib
from collections.abc import Sequence

# Before Gradio is imported: it would report its use otherwise.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from keras_capsules.explorer import drawing
from keras_capsules.explorer import figures
from keras_capsules.explorer import networks
from keras_capsules.explorer import pads

_FOLDER = pathlib.Path(__file__).parent
_INVITATION = "Draw a digit, take a sample, or upload a picture."
_BOTH = "Draw a digit on each pad."
# How far a number of a pose goes, up and down.
_REACH = 0.5


def make(
    singles: Sequence[networks.Network], pair: networks.Network | None
) -> gr.Blocks:
    """Makes the page.

    Args:
        singles: List of `Network`, of which at least one has capsules.
        pair: The `Network` of two digits, or `None`.

    Returns:
        `gr.Blocks`.
    """
    # What is uploaded is removed within the hour, or when the page closes.
    with gr.Blocks(
        title="Capsule explorer",
        analytics_enabled=False,
        delete_cache=(600, 3600),
    ) as page:
        gr.Markdown("# Capsule explorer")
        with gr.Tab("One digit"):
            _one_digit([each for each in singles if each.has_capsules])
        if pair is not None:
            with gr.Tab("Two digits"):
                _two_digits(pair)
        with gr.Tab("Compare"):
            _compare(singles)
    return page


def launch(page: gr.Blocks, host: str, port: int) -> None:
    """Serves the page, to this machine by default, and to nobody else.

    Args:
        page: What `make` returns.
        host: String.
        port: Integer.
    """
    # The fonts of the machine: Gradio's own themes name fonts of other hosts.
    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    # Only the page asks: other requests would not wait for their turn.
    page.queue(api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size=drawing.MAX_BYTES,
        theme=theme,
        css_paths=_FOLDER / "page.css",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        quiet=True,
    )


def _one_digit(capsules):
    named = {each.name: each for each in capsules}
    size = max(each.pose_size for each in capsules)
    with gr.Row():
        with gr.Column(min_width=240):
            drawn = pads.make("digit")
        with gr.Column(min_width=280, scale=2):
            choice = _choice("Network", capsules, capsules[0])
            answer = gr.HTML(figures.nothing(capsules[0], _INVITATION))
    gr.Markdown(
        "### Bend the winning pose\n"
        "Each number of the winning capsule's pose stands for some property "
        "of the digit: add to it, and see it decoded."
    )
    with gr.Row():
        with gr.Column(min_width=160, elem_classes="bent"):
            bent = gr.HTML(figures.bent(None))
            straight = gr.Button("Back to the pose itself", size="sm")
        with gr.Column(min_width=280, scale=4), gr.Row():
            sliders = [
                gr.Slider(
                    -_REACH,
                    _REACH,
                    0,
                    step=0.01,
                    label=f"pose {index + 1}",
                    min_width=160,
                    buttons=[],
                    visible=index < capsules[0].pose_size,
                )
                for index in range(size)
            ]

    # How often the sliders were put back, which changes what is shown.
    times = gr.State(0)

    def look(address, name, *offsets):
        network = named[name]
        found = _found(network, address)
        picture = None
        if found and network.pose_size and any(offsets):
            offsets = offsets[: network.pose_size]
            picture = network.bend(found, offsets)
        elif found and found.reconstructions:  # the pose itself, as decoded
            picture = found.reconstructions[0]
        return {
            answer: _described(network, found),
            bent: figures.bent(picture),
        }

    def straighten(name, before):
        size = named[name].pose_size
        return {
            times: before + 1,
            **{
                slider: gr.Slider(value=0, visible=index < size)
                for index, slider in enumerate(sliders)
            },
        }

    _show(
        look,
        [drawn.input, times.change, *[each.input for each in sliders]],
        [drawn, choice, *sliders],
        [answer, bent],
    )
    gr.on(
        [straight.click, choice.input],
        straighten,
        [choice, times],
        [times, *sliders],
        **pads.QUIETLY,
    )


def _two_digits(network):
    with gr.Row():
        with gr.Column(min_width=240):
            first = pads.make("first digit")
        with gr.Column(min_width=240):
            second = pads.make("second digit")
        with gr.Column(min_width=280, scale=2):
            apart = gr.Slider(
                0,
                drawing.MAX_APART,
                6,
                step=1,
                label="pixels from one digit to the other",
            )
            answer = gr.HTML(figures.nothing(network, _BOTH))

    def look(one, other, pixels):
        digits = [drawing.from_pad(each) for each in (one, other)]
        if any(each is None for each in digits):
            return {answer: figures.nothing(network, _BOTH)}
        image = drawing.one_on_another(*digits, int(pixels))
        found = network.answer(image, num_winners=2)
        return {answer: figures.answer(network, found)}

    inputs = [first, second, apart]
    _show(look, [each.input for each in inputs], inputs, [answer])


def _compare(singles):
    named = {each.name: each for each in singles}
    if len(singles) == 1:
        gr.Markdown("This is the only network: add your own, `--model PATH`.")
    with gr.Row():
        with gr.Column(min_width=240):
            drawn = pads.make("digit to compare")
        chosen, answers = [], []
        for side, network in zip(
            ("Left", "Right"), networks.two_kinds(singles), strict=True
        ):
            with gr.Column(min_width=280):
                chosen.append(_choice(f"{side} network", singles, network))
                answers.append(gr.HTML(figures.nothing(network, _INVITATION)))

    def look(address, *names):
        return {
            place: _described(named[name], _found(named[name], address))
            for place, name in zip(answers, names, strict=True)
        }

    inputs = [drawn, *chosen]
    _show(look, [each.input for each in inputs], inputs, answers)


def _show(look, changes, inputs, outputs):
    """Shows what a function of all inputs says, whichever of them changes.

    There is one such function for each answer. With two, an older question
    could be answered last, and its outdated answer would stay.
    """
    gr.on(changes, look, inputs, outputs, **pads.QUIETLY)


# A slider that moves, or another network, changes nothing about the others.
@functools.lru_cache(maxsize=8)
def _found(network, address):
    """The answer to what is on the pad; `None` if nothing is."""
    digit = drawing.from_pad(address)
    return None if digit is None else network.answer(network.frame(digit))


def _described(network, found):
    if found is None:
        return figures.nothing(network, _INVITATION)
    return figures.answer(network, found)


def _choice(label, choices, value):
    return gr.Dropdown(
        [each.name for each in choices],
        value=value.name,
        label=label,
        filterable=False,
    )
