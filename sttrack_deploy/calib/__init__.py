"""Calibration sets: what the search graph is fed in real tracking, state included. Imports neither torch nor onnx."""
