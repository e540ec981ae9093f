"""One file per rule of the graph; each has `run(cfg, inputs, outputs, sources)`. Steps never import steps."""
