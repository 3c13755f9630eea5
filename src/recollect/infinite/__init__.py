"""Infinitely wide twins: closed-form ensembles of PyTorch networks.

Hand it a module, get its kernels in closed form, and what infinitely many such networks predict
at any time of their training, with variance and without a training loop::

    model = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 1))
    twin = infinite.twin(model, weight_std=1.5, bias_std=0.1)
    fit = infinite.ensemble(twin, x, y, regularization=1e-4)
    prediction = fit.predict(x_test)          # .mean, .covariance, .std; t=... for any time

Layers can also be put together by hand: ``infinite.Serial(infinite.Dense(), infinite.Relu())``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recollect._late import late_names
from recollect.infinite.activations import (
    Cos,
    Elementwise,
    Erf,
    Exp,
    ExpNormalized,
    Gabor,
    Gaussian,
    Gelu,
    Hermite,
    Monomial,
    Polynomial,
    Rbf,
    SigmoidLike,
    Sin,
)
from recollect.infinite.affine import Conv, ConvLocal, ConvTranspose, Dense
from recollect.infinite.composing import Add, Concatenate, Multiply, Repeat, Residual, Serial
from recollect.infinite.ensembles import FiniteEnsemble, History
from recollect.infinite.finite import (
    empirical_kernel,
    linearize,
    ntk_vector_product,
    reparameterize,
    sample_kernel,
    taylor_expand,
)
from recollect.infinite.flows import Flow, gradient_flow, mean_squared_flow
from recollect.infinite.labels import LabelFit, fit_labels
from recollect.infinite.lifting import twin
from recollect.infinite.many_points import Nystroem, nystroem, random_features
from recollect.infinite.mixing import Attention, Dropout, LayerNorm
from recollect.infinite.pooling import (
    AvgPool,
    Flatten,
    GlobalAvgPool,
    GlobalSumPool,
    Identity,
    Scale,
    SumPool,
)
from recollect.infinite.predict import (
    Ensemble,
    Prediction,
    SingularKernel,
    ensemble,
    max_learning_rate,
)
from recollect.infinite.quadrature import Expansion, Numerical
from recollect.infinite.quality import interval_coverage, rank_correlation, unfamiliarity
from recollect.infinite.rectifiers import (
    ABRelu,
    Abs,
    Activation,
    LeakyRelu,
    RectifiedMonomial,
    Relu,
    Sign,
)
from recollect.infinite.resampling import Aggregate, Index, LinearMap, Resize, Transpose
from recollect.infinite.sampled_layers import SoftmaxAttention, sampled_batch_norm
from recollect.infinite.sampling import MaxPool, standard_error
from recollect.infinite.states import Kernel
from recollect.infinite.twins import Twin

if TYPE_CHECKING:
    from recollect.infinite.estimators import InfiniteClassifier, InfiniteRegressor
    from recollect.infinite.gpytorch_kernel import InfiniteKernel
    from recollect.infinite.plotting import plot_training

# These need scikit-learn, GPyTorch or matplotlib, which are extras.
_LATE = {
    "InfiniteClassifier": "recollect.infinite.estimators",
    "InfiniteKernel": "recollect.infinite.gpytorch_kernel",
    "InfiniteRegressor": "recollect.infinite.estimators",
    "plot_training": "recollect.infinite.plotting",
}

__all__ = [
    "ABRelu",
    "Abs",
    "Activation",
    "Add",
    "Aggregate",
    "Attention",
    "AvgPool",
    "Concatenate",
    "Conv",
    "ConvLocal",
    "ConvTranspose",
    "Cos",
    "Dense",
    "Dropout",
    "Elementwise",
    "Ensemble",
    "Erf",
    "Exp",
    "ExpNormalized",
    "Expansion",
    "FiniteEnsemble",
    "Flatten",
    "Flow",
    "Gabor",
    "Gaussian",
    "Gelu",
    "GlobalAvgPool",
    "GlobalSumPool",
    "Hermite",
    "History",
    "Identity",
    "Index",
    "InfiniteClassifier",
    "InfiniteKernel",
    "InfiniteRegressor",
    "Kernel",
    "LabelFit",
    "LayerNorm",
    "LeakyRelu",
    "LinearMap",
    "MaxPool",
    "Monomial",
    "Multiply",
    "Numerical",
    "Nystroem",
    "Polynomial",
    "Prediction",
    "Rbf",
    "RectifiedMonomial",
    "Relu",
    "Repeat",
    "Residual",
    "Resize",
    "Scale",
    "Serial",
    "SigmoidLike",
    "Sign",
    "Sin",
    "SingularKernel",
    "SoftmaxAttention",
    "SumPool",
    "Transpose",
    "Twin",
    "empirical_kernel",
    "ensemble",
    "fit_labels",
    "gradient_flow",
    "interval_coverage",
    "linearize",
    "max_learning_rate",
    "mean_squared_flow",
    "ntk_vector_product",
    "nystroem",
    "plot_training",
    "random_features",
    "rank_correlation",
    "reparameterize",
    "sample_kernel",
    "sampled_batch_norm",
    "standard_error",
    "taylor_expand",
    "twin",
    "unfamiliarity",
]

__getattr__, __dir__ = late_names(__name__, _LATE, __all__)
