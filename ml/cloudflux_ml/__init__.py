"""The access forecaster: features from daily access, the model, its training, its registry and its scoring."""
