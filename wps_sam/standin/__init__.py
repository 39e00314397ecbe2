"""A small stand-in for Detectron2: its module paths and names, for the part of it that WPS-SAM uses.

Written from Detectron2's documented behaviour, not from its source. Imports are relative, so that the
same files work as ``detectron2`` (in place of the real one) and as ``wps_sam.standin`` (in tests beside
the real one).
"""

# Detectron2's release whose behaviour this follows; the suffix tells them apart in logs.
__version__ = "0.6+wps.sam"
