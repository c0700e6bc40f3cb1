"""PyTorch: the reference, and its compiled version (:mod:`.engine`)."""
