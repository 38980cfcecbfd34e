"""How long the explorer takes to answer a stroke of the pen.

    make .venv-browser/ready
    .venv-browser/bin/python benchmarks/stroke.py

Serves `examples/explorer.py` in a process, opens it in Chromium without a
screen, and draws lines on the pad of one digit, each somewhere else. The time
of a stroke is from the pen's lifting to the last change of the bars, so it has
the way to the process and back, the network, the decoder, the couplings that
are painted over the drawing, and what the browser does to show them. The lines
before the measured ones warm everything up. Writes `stroke.json` to
`benchmarks/results`.
"""

import os
import random
import shutil
import statistics
import subprocess
import sys

import harness

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Notes when the pen was lifted, and when the bars changed last.
OBSERVE = """() => {
    const times = (window.times = { lifted: 0, changed: 0 });
    const bars = () => document.querySelector("table.bars")?.outerHTML;
    let shown = bars();
    document.querySelector(".pad canvas").addEventListener(
        "pointerup", () => { times.lifted = performance.now(); }, true
    );
    new MutationObserver(() => {
        const now = bars();
        if (now !== shown) times.changed = performance.now();
        shown = now;
    }).observe(document.body, {
        attributes: true, characterData: true, childList: true, subtree: true,
    });
}"""


def main():
    parser = harness.parser(__doc__, strokes=50, warm_up=10)
    options = parser.parse_args()
    if options.redraw:
        parser.error("there is nothing to draw")
    times = measure(options.warm_up + options.strokes)[options.warm_up :]
    found = {
        "strokes": len(times),
        "median_ms": round(statistics.median(times), 1),
        "largest_ms": round(max(times), 1),
    }
    print(found)
    harness.write("stroke", found, options.output)


def measure(number):
    """Milliseconds of each stroke, in a browser of its own."""
    from playwright import sync_api

    browsers = [path for path in map(shutil.which, BROWSERS) if path]
    if not browsers:
        raise ValueError(
            f"Expected a browser, one of {', '.join(BROWSERS)}. Received: none"
        )
    with explorer() as (port, _), sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browsers[0])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{port}")
        times = times_of(page, number)
        browser.close()
    return times


def times_of(page, number):
    """Draws lines on a page of the explorer."""
    canvas = page.locator(".pad canvas").first
    canvas.hover()
    page.evaluate(OBSERVE)
    box = canvas.bounding_box()
    numbers = random.Random(0)
    times = []
    for index in range(number):
        if index % 5 == 0:  # a few lines are about as much as a digit
            clear(page)
        for act in (page.mouse.down, page.mouse.up):
            x, y = (numbers.uniform(0.2, 0.8) for _ in range(2))
            page.mouse.move(
                box["x"] + x * box["width"], box["y"] + y * box["height"]
            )
            act()
        times.append(settled(page))
    return times


def clear(page):
    page.get_by_role("button", name="Clear").first.click()
    page.wait_for_timeout(500)


def settled(page):
    """Milliseconds from the pen's lifting to the last change of the bars."""
    before = None
    while True:
        page.wait_for_timeout(500)
        times = page.evaluate("window.times")
        if times == before and times["changed"] > times["lifted"]:
            return times["changed"] - times["lifted"]
        before = times


def explorer():
    """The port and the process of the explorer, as a context."""
    environment = {
        "KERAS_BACKEND": "tensorflow",
        **os.environ,
        "PYTHONPATH": str(harness.ROOT),
    }
    return harness.served(
        [sys.executable, harness.ROOT / "examples" / "explorer.py"],
        environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    main()
