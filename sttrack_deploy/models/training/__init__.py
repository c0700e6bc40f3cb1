"""The trainer and what feeds it. Start at :mod:`.trainer` (the loop) and :mod:`.clips` (what it feeds on)."""
