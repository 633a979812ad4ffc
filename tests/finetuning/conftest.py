"""The tiny corpus and settings of the tests of training."""

from tests.training.conftest import alone, corpus, model_settings, one_thread, tiny, training_settings

__all__ = ["alone", "corpus", "model_settings", "one_thread", "tiny", "training_settings"]
