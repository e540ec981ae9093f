"""Faces of a frame: detectors, tracks, alignment, masks and measures."""
