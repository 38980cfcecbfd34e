"""Serves the page of the explorer."""

import importlib.util
import socket
from collections.abc import Sequence


def serve(
    paths: Sequence[str] = (),
    two_digits: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Serves the page until it is interrupted.

    Args:
        paths: Files of networks of one's own, see `networks.find`. Defaults to
            `()`.
        two_digits: See `networks.find`. Defaults to `None`.
        host: String, the address to serve at. Defaults to `"127.0.0.1"`, for
            this machine alone.
        port: Integer. Defaults to `7860`.

    Raises:
        ImportError: If Gradio is not installed.
        ValueError: If a network cannot be explored, or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ImportError(
            "The explorer needs Gradio. Install the extra for it: `pip install "
            "'keras-capsules[explorer]'`, or in a clone `pip install "
            "'.[explorer]'`."
        )
    _check_port(host, port)
    from keras_capsules.explorer import networks

    singles, pair = networks.find(paths, two_digits)
    from keras_capsules.explorer import page

    print(f"http://{host}:{port}", flush=True)
    page.launch(page.make(singles, pair), host, port)


def _check_port(host, port):
    """Raises if nothing can be served there, before networks are loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # As servers do: a connection that has just ended is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except (OSError, OverflowError) as error:
        raise ValueError(
            "The page cannot be served there. Expected a free port and an "
            f"address of this machine. Received: host={host!r}, port={port}"
        ) from error
