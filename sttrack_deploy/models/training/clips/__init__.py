"""What the trainer feeds on: clips of real video (:mod:`.real`) and synthetic ones (:mod:`.synthetic`)."""
