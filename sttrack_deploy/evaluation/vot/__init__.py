"""The official VOT toolkit drives this tracker: a TraX server, and its entry in a workspace.

The toolkit and TraX are optional; ``sttrack_deploy.cli.trax_server`` alone imports ``trax``, and only when it runs.

Seen with vot-toolkit 0.9.0, 0.8.1 and 0.7.4: the first two run unsupervised experiments only (supervised,
multistart and realtime ones fail in the toolkit, with any TraX tracker); 0.7.4 runs all of them, but no
sequence with an object that appears after the first frame. attributee 0.1.10, which all of them would
install, cannot be imported on Python 3.11 and later: hence the pin in the extra ``vot``.
"""
