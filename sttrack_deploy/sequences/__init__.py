"""Annotated video: what training, calibration and evaluation read, and what a tracker said about it."""
