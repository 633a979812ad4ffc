"""Fine-tuning: a trained model learns to answer, by an adapter or as a whole."""
