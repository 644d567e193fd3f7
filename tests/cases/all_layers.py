"""The rows of all families of layers together."""

from tests.cases.activation_layers import ACTIVATION_CASES, ACTIVATION_MISFITS
from tests.cases.branch_layers import BRANCH_CASES
from tests.cases.convolution_layers import CONVOLUTION_CASES, CONVOLUTION_MISFITS
from tests.cases.dense_layers import DENSE_CASES, DENSE_MISFITS
from tests.cases.layers import LAYER_CASES, LayerCase, Misfit
from tests.cases.linear_layers import LINEAR_CASES, LINEAR_MISFITS
from tests.cases.loss_layers import LOSS_CASES, LOSS_MISFITS
from tests.cases.normalization_layers import NORMALIZATION_CASES, NORMALIZATION_MISFITS
from tests.cases.pooling_layers import POOLING_CASES, POOLING_MISFITS
from tests.cases.structure_layers import STRUCTURE_CASES, STRUCTURE_MISFITS

CASES: list[LayerCase] = [
    *LAYER_CASES,
    *CONVOLUTION_CASES,
    *LINEAR_CASES,
    *POOLING_CASES,
    *ACTIVATION_CASES,
    *NORMALIZATION_CASES,
    *STRUCTURE_CASES,
    *BRANCH_CASES,
    *LOSS_CASES,
    *DENSE_CASES,
]
MISFITS: list[Misfit] = [
    *CONVOLUTION_MISFITS,
    *LINEAR_MISFITS,
    *POOLING_MISFITS,
    *ACTIVATION_MISFITS,
    *NORMALIZATION_MISFITS,
    *STRUCTURE_MISFITS,
    *LOSS_MISFITS,
    *DENSE_MISFITS,
]
