"""Recorded calibration sets; nothing records them yet (fp32 needs none)."""
