r"""Losses of classes.

Besides what all losses share (see :mod:`torch_mlcalc.losses`):

* **Two classes** have element losses: ``weight`` is that of an element.
* **Many classes** are in dimension 1, or 0 without a batch; ``target`` holds indices,
  and ``weight`` is that of a class, as in torch. With ``"none"`` the caller can weight
  elements.
* **Infinite** logits and log-probabilities mean certainty: :math:`0 \cdot \infty = 0`.
* **Indices** out of range are an error of the kernel that meets them: an exception on a
  CPU, on a GPU an assertion; with ``validate=True`` a message before any work.
"""

from torch_mlcalc.losses.classification.asymmetric import (
    AsymmetricLoss,
    asymmetric_loss,
)
from torch_mlcalc.losses.classification.bi_tempered import (
    BiTemperedLoss,
    bi_tempered_loss,
)
from torch_mlcalc.losses.classification.binary import (
    BCELoss,
    BCEWithLogitsLoss,
    SoftMarginLoss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    soft_margin_loss,
)
from torch_mlcalc.losses.classification.cross_entropy import (
    CrossEntropyLoss,
    NLLLoss,
    cross_entropy,
    nll_loss,
)
from torch_mlcalc.losses.classification.divergence import KLDivLoss, kl_div
from torch_mlcalc.losses.classification.focal import (
    BinaryFocalLoss,
    FocalLoss,
    binary_focal_loss,
    focal_loss,
)
from torch_mlcalc.losses.classification.linear_cross_entropy import (
    LinearCrossEntropyLoss,
    linear_cross_entropy,
)
from torch_mlcalc.losses.classification.margin import (
    MultiMarginLoss,
    multi_margin_loss,
)
from torch_mlcalc.losses.classification.poly import (
    BinaryPolyLoss,
    PolyLoss,
    binary_poly_loss,
    poly_loss,
)

__all__ = [
    "AsymmetricLoss",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BiTemperedLoss",
    "BinaryFocalLoss",
    "BinaryPolyLoss",
    "CrossEntropyLoss",
    "FocalLoss",
    "KLDivLoss",
    "LinearCrossEntropyLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PolyLoss",
    "SoftMarginLoss",
    "asymmetric_loss",
    "bi_tempered_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_focal_loss",
    "binary_poly_loss",
    "cross_entropy",
    "focal_loss",
    "kl_div",
    "linear_cross_entropy",
    "multi_margin_loss",
    "nll_loss",
    "poly_loss",
    "soft_margin_loss",
]
