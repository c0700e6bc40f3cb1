"""Is a converted bundle in an engine the same tracker? In closed loop, and tensor by tensor."""
