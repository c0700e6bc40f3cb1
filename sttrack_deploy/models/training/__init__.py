"""The trainer and what feeds it. Start at :mod:`.trainer` (the loop) and :mod:`.synthetic` (the clips)."""
