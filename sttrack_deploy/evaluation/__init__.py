"""How well a tracker does on annotated sequences. Imports neither torch nor onnx."""
