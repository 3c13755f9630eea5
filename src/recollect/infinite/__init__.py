"""Infinitely wide networks, in closed form."""
from recollect.infinite.activations import *
from recollect.infinite.quadrature import *
from recollect.infinite.affine import *
from recollect.infinite.pooling import *
from recollect.infinite.mixing import *
from recollect.infinite.composing import *
from recollect.infinite.sampling import *
from recollect.infinite.twins import Twin
from recollect.infinite.lifting import twin
from recollect.infinite.states import Kernel
