"""Tracking video with a bundle: the tracker, frames in, results out. Imports neither torch nor onnx."""
