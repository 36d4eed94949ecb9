"""From labelled images to a new model in service: dataset, training, gate, registry, rollout."""
