"""From labelled photos to a new model in service: dataset, training, gate, registry, rollout."""
