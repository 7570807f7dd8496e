"""Texts in, labels out: the client of a served classifier, over gRPC and HTTP, sync and async."""

from bantam.client.classifier import AsyncClassifier, Classifier
from bantam.client.prediction import Description, Prediction
from bantam.client.security import TLS

__all__ = ["TLS", "AsyncClassifier", "Classifier", "Description", "Prediction"]
