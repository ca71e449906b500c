"""VGG networks in their form for small images, with batch norm.

Source: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition" (2014), configuration D. As usual for CIFAR-10 there is one linear layer in place of
three, and a batch norm behind each convolution, which then needs no bias. Initialisation: He et
al., "Delving Deep into Rectifiers" (2015), §2.2: normal, by fan-out.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from secateur.nets.shapes import InputShape, narrowed, require_plane

# Each stage's convolutions by their width; pooling follows each stage.
CONFIGURATION_D = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)


class Vgg(nn.Module):
    """Stages of 3x3 convolutions, each stage halving the plane, and a linear classifier.

    Raises:
        UsageError: the image has fewer pixels in a row or column than the poolings take together
            (32 with five stages).
    """

    def __init__(
        self,
        input_shape: InputShape,
        classes: int,
        *,
        stages: tuple[tuple[int, ...], ...],
        width: float = 1.0,
    ) -> None:
        super().__init__()
        require_plane("this vgg", input_shape, 2 ** len(stages))
        channels = input_shape[0]
        layers: list[nn.Module] = []
        for widths in stages:
            for outputs in narrowed(widths, width):
                conv = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, C, H, W]."""
        logits: Tensor = self.linear(self.flatten(self.pool(self.features(images))))
        return logits


NETS = {"vgg16": partial(Vgg, stages=CONFIGURATION_D)}
