"""Texts in, labels out: the client of a served classifier, over gRPC and HTTP, sync and async."""

from bantam.client.classifier import AsyncClassifier, Classifier
from bantam.client.prediction import Description, Prediction

__all__ = ["AsyncClassifier", "Classifier", "Description", "Prediction"]
