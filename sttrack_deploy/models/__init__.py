"""The network, its configurations and its checkpoints; :mod:`.training` makes new ones."""
