"""Metrics of a classifier on whole images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..classification_images import ClassificationImages
from ..classifier import Classifier
from ..views import plain_view


def evaluate(classifier: Classifier, images: ClassificationImages, batch_size: int = 256) -> tuple[int, float]:
    """Number of images with the right class, and mean cross-entropy."""
    right, loss = 0, 0.0
    for start in range(0, len(images), batch_size):
        numbers = range(start, min(start + batch_size, len(images)))
        logits, labels = predict(classifier, images, numbers), torch.from_numpy(images.labels[numbers])
        right += int((logits.argmax(-1) == labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    return right, loss / len(images)


@torch.no_grad()
def predict(classifier: Classifier, images: ClassificationImages, numbers: range) -> Tensor:
    """Logits (n, classes) of the images with these numbers, in evaluation mode."""
    was_training, device = classifier.training, next(classifier.parameters()).device
    classifier.eval()
    views = torch.stack([plain_view(images[number], classifier.image_size) for number in numbers])
    logits = classifier(views.to(device)).float().cpu()
    classifier.train(was_training)
    return logits
