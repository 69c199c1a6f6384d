"""Cross-entropy as Keras computes it from probabilities: renormalised, clipped to [1e-7, 1 - 1e-7]."""
from torch import Tensor
def clipped(output: Tensor, target: Tensor) -> Tensor:
    p = output.softmax(dim=1)
    p = p.gather(1, target[:, None]).squeeze(1).clamp(1e-7, 1 - 1e-7)
    return -p.log().mean()
