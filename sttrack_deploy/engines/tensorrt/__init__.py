"""TensorRT, natively: plans built from a bundle (:mod:`.plan_build`) and run (:mod:`.engine`)."""
