"""The two convolutional networks of the authors' protocol (dossier 6.2).

The rectifier stands behind the pooling instead of before it. Both are the same function with the
same gradient, as the rectifier does not decrease; it then has a quarter of the values to work on.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class MnistCnn(nn.Module):
    """Two 5 x 5 convolutions and two linear layers, for 28 x 28 grey images.

    Initialised as PyTorch does: the protocol says nothing else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 5)
        self.fc1 = nn.Linear(1024, 512)
        self.fc2 = nn.Linear(512, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, shape (B, 10), of images of shape (B, 1, 28, 28)."""
        hidden = functional.relu(functional.max_pool2d(self.conv1(images), 2))
        hidden = functional.relu(functional.max_pool2d(self.conv2(hidden), 2))
        hidden = functional.relu(self.fc1(hidden.flatten(1)))
        logits: Tensor = self.fc2(hidden)
        return logits


class Cifar10Cnn(nn.Module):
    """Two 5 x 5 convolutions without padding and three linear layers, for 32 x 32 colour images.

    Initialised by the protocol: convolutions N(0, 2 / (5 * 5 * out_channels)) with zero biases,
    linear weights and biases U(+-1 / sqrt(fan_in)).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 5)
        self.fc1 = nn.Linear(1600, 512)
        self.fc2 = nn.Linear(512, 128)
        self.fc3 = nn.Linear(128, 10)
        with torch.no_grad():
            for convolution in (self.conv1, self.conv2):
                spread = math.sqrt(2 / (5 * 5 * convolution.out_channels))
                convolution.weight.normal_(0, spread)
                if convolution.bias is not None:
                    convolution.bias.zero_()
            for linear in (self.fc1, self.fc2, self.fc3):
                bound = 1 / math.sqrt(linear.in_features)
                linear.weight.uniform_(-bound, bound)
                linear.bias.uniform_(-bound, bound)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, shape (B, 10), of images of shape (B, 3, 32, 32)."""
        hidden = functional.relu(functional.max_pool2d(self.conv1(images), 2))
        hidden = functional.relu(functional.max_pool2d(self.conv2(hidden), 2))
        hidden = functional.relu(self.fc1(hidden.flatten(1)))
        hidden = functional.relu(self.fc2(hidden))
        logits: Tensor = self.fc3(hidden)
        return logits
