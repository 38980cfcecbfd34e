"""Serves an exported model over HTTP, with TensorFlow and Starlette.

    pip install tensorflow starlette uvicorn
    SAVED_MODEL=path uvicorn serve_http:app --app-dir examples

The SavedModel is one of `export_saved_model(..., preprocess=True,
class_names=...)`. POST the pixels of one image to /predict, as bytes from 0 to
255, with their height, width and channels in a header:

    curl --data-binary @pixels.bin --header "Image-Shape: 28,28,1" \
        http://127.0.0.1:8000/predict
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


async def predict(request: Request) -> JSONResponse:
    """The label and the scores of one image."""
    content = await request.body()
    try:
        shape = [int(x) for x in request.headers["Image-Shape"].split(",")]
        pixels = np.frombuffer(content, "uint8").reshape(1, *shape)
        # Other requests are received while TensorFlow computes.
        found = await run_in_threadpool(MODEL.serve, pixels)
    except (KeyError, ValueError, tf.errors.InvalidArgumentError) as error:
        message = "Expected an image and its shape in the header Image-Shape."
        raise HTTPException(400, f"{message} {error}") from error
    return JSONResponse(
        {
            "label": found["labels"][0].numpy().decode(),
            "scores": found["scores"][0].numpy().tolist(),
        }
    )


async def health(_: Request) -> Response:
    """Answers as soon as the model is loaded."""
    return Response(status_code=204)


app = Starlette(
    routes=[
        Route("/predict", predict, methods=["POST"]),
        Route("/health", health),
    ]
)
