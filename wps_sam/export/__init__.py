"""A trained model, from picture to part map, as one file for other runtimes; wps_sam/onnx_runtime.py uses it.

``graph`` is the model without lists of any length, ``files`` writes and stamps it, ``compare`` tells what it lost.
"""
