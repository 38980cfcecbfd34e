"""Serves an exported model over HTTP, with TensorFlow and Starlette.

    pip install tensorflow starlette uvicorn
    SAVED_MODEL=path uvicorn serve_http:app --app-dir examples

The SavedModel is one of `export_saved_model(..., preprocess=True,
class_names=...)`. POST the pixels of one image to /predict, as bytes from 0 to
255, with their height, width and channels in a header:

    curl --data-binary @pixels.bin --header "Image-Shape: 28,28,1" \
        http://127.0.0.1:8000/predict

Images of more than LARGEST_IMAGE bytes, 16 MiB by default, are not read.
"""

import os

import numpy as np
import tensorflow as tf
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.responses import Response
from starlette.routing import Route

MODEL = tf.saved_model.load(os.environ["SAVED_MODEL"])
# The bytes of the largest image that is taken.
LIMIT = int(os.environ.get("LARGEST_IMAGE", 2**24))
# What the model says of images that it does not take.
WRONG = (KeyError, TypeError, ValueError, tf.errors.InvalidArgumentError)


async def predict(request: Request) -> JSONResponse:
    """The label and the scores of one image."""
    content = await _body(request)
    try:
        pixels = _pixels(content, request.headers["Image-Shape"])
        # Other requests are received while TensorFlow computes.
        found = await run_in_threadpool(MODEL.serve, pixels)
    except WRONG as error:
        message = "Expected an image and its shape in the header Image-Shape."
        raise HTTPException(400, f"{message} {error}") from error
    scores = found["scores"][0].numpy()
    if not np.isfinite(scores).all():  # JSON has no such numbers
        raise HTTPException(500, "The scores are not finite.")
    return JSONResponse(
        {
            "label": found["labels"][0].numpy().decode(),
            "scores": scores.tolist(),
        }
    )


async def _body(request: Request) -> bytes:
    """What was sent, which is not read to its end if it is too much."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LIMIT:
            raise HTTPException(413, f"Expected at most {LIMIT} bytes.")
    return bytes(content)


def _pixels(content: bytes, header: str) -> np.ndarray:
    """An image as a batch of it."""
    shape = [int(each) for each in header.split(",")]
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"Received: Image-Shape: {header}")
    return np.frombuffer(content, "uint8").reshape(1, *shape)


async def health(_: Request) -> Response:
    """Answers as soon as the model is loaded."""
    return Response(status_code=204)


app = Starlette(
    routes=[
        Route("/predict", predict, methods=["POST"]),
        Route("/health", health),
    ]
)
