"""Table 13's generator and discriminator, and the auto-encoder whose decoder is the generator."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

KERNEL = 5
FACTOR = 4  # of super-resolution: two upsamplings


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, KERNEL, padding=KERNEL // 2)


def generator(width: int = 64, channels: int = 1) -> nn.Sequential:
    """Low resolution [N, 1, h, w] to high resolution [N, channels, 4h, 4w]; 873 217 weights.

    Args:
        width: of the first layer, 64 in the paper; the others scale with it.
        channels: of the output, 1 for simulated smoke.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=_conv(1, width),
            relu1=nn.ReLU(),
            up1=nn.Upsample(scale_factor=2),
            conv2=_conv(width, 2 * width),
            relu2=nn.ReLU(),
            up2=nn.Upsample(scale_factor=2),
            conv3=_conv(2 * width, 2 * width),
            relu3=nn.ReLU(),
            conv4=_conv(2 * width, width),
            relu4=nn.ReLU(),
            conv5=_conv(width, width // 2),
            relu5=nn.ReLU(),
            conv6=_conv(width // 2, channels),
            relu6=nn.ReLU(),
        )
    )


def encoder(width: int = 64, channels: int = 1) -> nn.Sequential:
    """High resolution [N, channels, 4h, 4w] to a code [N, 1, h, w]: Table 13's reverse pass with weights of its own."""
    return nn.Sequential(
        OrderedDict(
            conv6=_conv(channels, width // 2),
            relu6=nn.ReLU(),
            conv5=_conv(width // 2, width),
            relu5=nn.ReLU(),
            conv4=_conv(width, 2 * width),
            relu4=nn.ReLU(),
            conv3=_conv(2 * width, 2 * width),
            relu3=nn.ReLU(),
            down2=nn.MaxPool2d(2),
            conv2=_conv(2 * width, width),
            relu2=nn.ReLU(),
            down1=nn.MaxPool2d(2),
            conv1=_conv(width, 1),
            relu1=nn.ReLU(),
        )
    )


class AutoEncoder(nn.Module):
    """[N, channels, 4h, 4w] → code [N, 1, h, w] → [N, channels, 4h, 4w].

    The paper names the generator's reused layers and not what else there is. Here they are the decoder, and the encoder
    is its mirror image, trained from scratch in every variant.

    Args:
        width: as of the generator.
        channels: of the pictures.
        leaky: the last activation has a slope of 0.2 below 0, where Table 13's ReLU has no gradient.
    """

    def __init__(self, width: int = 64, channels: int = 1, leaky: bool = False) -> None:
        super().__init__()
        self.encoder = encoder(width, channels)
        self.decoder = generator(width, channels)
        if leaky:
            self.decoder.relu6 = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """The pictures, encoded and decoded."""
        return self.decoder(self.encoder(x))

    def reuse(self, weights: dict[str, Tensor]) -> list[str]:
        """Take over a generator's layers; its last one only if the channels agree (6 layers for B1, 5 for B2).

        Returns:
            The names of the layers reused.
        """
        own = self.decoder.state_dict()
        fits = {n: w for n, w in weights.items() if n.partition(".")[0] != "conv6" or own["conv6.bias"].numel() == 1}
        missing, unexpected = self.decoder.load_state_dict(fits, strict=False)
        assert not unexpected and all(n.startswith("conv6.") for n in missing)  # noqa: PT018
        return sorted({n.partition(".")[0] for n in fits})


def discriminator(width: int = 32, size: int = 64) -> nn.Sequential:
    """High resolution beside the low one, upsampled, [N, 2, size, size], to a logit [N, 1].

    Args:
        width: of the first layer, 32 in the paper; the others scale with it.
        size: pixels along a side.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 2
    for i in range(4):
        outputs = width * 2**i
        layers |= {
            f"conv{i + 1}": _conv(inputs, outputs),
            f"norm{i + 1}": nn.BatchNorm2d(outputs),
            f"lrelu{i + 1}": nn.LeakyReLU(0.2),
        }
        inputs = outputs
    layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(inputs * size * size, 1)}
    return nn.Sequential(layers)
