"""The networks of the experiments, as Linen modules."""
