"""The page of `keras-capsules explore`: drawings, networks, figures.

It needs Gradio and Pillow: `pip install "keras-capsules[explorer]"`.
"""
