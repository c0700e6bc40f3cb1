"""Back ends that run a bundle, behind one interface (:mod:`.base`), found by name (:mod:`.registry`)."""
