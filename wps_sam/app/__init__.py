"""The page of ``wps-sam app``: the parts of a photo, to be looked at, corrected by clicks and boxes, and downloaded.

``scene`` is what the page knows of a photo, and how each thing that a user does changes it; ``drawing`` shows it;
``files`` takes uploads in and gives downloads out; ``page`` ties them to Gradio, which nothing else here imports.
"""
