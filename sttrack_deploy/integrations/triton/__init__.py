"""NVIDIA Triton Inference Server: a model repository that keeps each track's state, and the engine that talks to it."""
