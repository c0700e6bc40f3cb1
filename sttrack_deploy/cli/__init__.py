"""The commands, one module each; :mod:`sttrack_deploy.terminal` holds what they share."""
