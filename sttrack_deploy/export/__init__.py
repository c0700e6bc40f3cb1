"""From a network to a bundle of ONNX graphs, compared with PyTorch before it is written."""
