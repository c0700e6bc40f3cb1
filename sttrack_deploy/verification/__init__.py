"""Proof that nothing was lost: agreement with PyTorch, gates, speed."""
