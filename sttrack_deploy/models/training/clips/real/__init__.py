"""Annotated sequences as training clips: videos of one's own and the published data sets."""
