"""Numeric precision of a bundle's graphs: FP16 and INT8, chosen by measurement and gated in closed loop."""
