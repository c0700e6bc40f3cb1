"""ONNX Runtime on the CPU (:mod:`.engine`) and on an NVIDIA GPU (:mod:`.gpu`)."""
