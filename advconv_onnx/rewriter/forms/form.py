"""What a form is: a rule whose result is equal but may be slower, so that a clock must choose it.

Several forms may apply to one site, and one form may come in several sizes (tiles, spellings): each
is an instance of its own, with a name of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from advconv_onnx.algebra.certificate import Certificate
from advconv_onnx.rewriter.rule import Plan, Rule


class Form(Rule[Plan]):
    """One way to compute a site.

    A form that only regroups sums of weights is ``affine_in_weights`` and proved by an integer
    probe, as fusions are. One that changes how a layer reaches its pixels certifies that instead,
    axis by axis: the probe would have to run the site at its full size, and rational coefficients
    are not exact in floating point.

    Attributes:
        small: the same with new weights left to be computed when the model is loaded, which is no
            slower afterwards: where the file must not grow. None where weights do not grow.
    """

    affine_in_weights = False
    small: Form[Plan] | None = None

    def certify(self, plan: Plan) -> Iterable[Certificate]:
        """Prove the identities this form rests on, one per spatial axis.

        Raises:
            NotEqual: one does not hold.
        """
        return ()
