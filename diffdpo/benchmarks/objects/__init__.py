"""Whether an image shows the objects of its prompt, as GenEval checks it: detectors, colours, and the rules alone."""
