"""Fine-tuning: train a model on conversations, with an adapter or all weights."""
