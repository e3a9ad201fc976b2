"""The scan: null model, plan, graph, run."""
