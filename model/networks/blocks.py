"""Building blocks of the encoder and decoder: residual block, down- and upsampling, linear layers."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import silu


class Residual(nn.Module):
    """Residual block x + f(x) of two 3x3 convolutions on [B, C, H, W]; the identity when new (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]  # Conv2d types its bias as optional

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(silu(self.first(silu(x))))
        return x + change


class Downsample(nn.Conv2d):
    """Strided convolution from [B, C, H, W] to [B, C', ceil(H/2), ceil(W/2)]."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, stride=2, padding=1)


class Upsample(nn.ConvTranspose2d):
    """Transposed convolution from [B, C, ceil(H/2), ceil(W/2)] to [B, C', H, W], with (H, W) given as `grid`."""

    def __init__(self, channels: int, out_channels: int, grid: tuple[int, int]) -> None:
        even = (1 - grid[0] % 2, 1 - grid[1] % 2)
        super().__init__(channels, out_channels, 3, stride=2, padding=1, output_padding=even)


def residuals(channels: int, count: int) -> list[nn.Module]:
    """Return `count` residual blocks of one width."""
    return [Residual(channels) for _ in range(count)]


def dense(widths: Sequence[int]) -> list[nn.Module]:
    """Return linear layers between successive widths, with a SiLU before each layer except the first."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.SiLU(), nn.Linear(inputs, outputs)]
    return layers[1:]
