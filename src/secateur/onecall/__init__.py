"""`secateur.prune`: one call from a model and a budget, or a goal, to a pruned model."""
