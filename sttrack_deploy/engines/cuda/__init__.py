"""Memory, streams and graphs of an NVIDIA GPU behind one small interface (:mod:`.memory`)."""
