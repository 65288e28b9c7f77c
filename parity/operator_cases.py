"""Every operator of tensor-graph: results, and gradients of a random projection of the results."""

import numpy as np
import torch
import torch.nn.functional as F

from case_writer import random_of


def uniform(*shape, low=-2.0, high=2.0):
    return lambda random: random.uniform(low, high, shape)


def positive(*shape):
    return uniform(*shape, low=0.3, high=3.0)


def fixed(values, dtype=np.float32):
    return lambda random: np.array(values, dtype=dtype)


class OperatorCases:
    def __init__(self, writer):
        self.writer = writer

    def __call__(self, operator, label, inputs, function, differentiate=None, **options):
        """
        One case. `inputs` gives a sampler by name; integers and bools are not differentiated, nor is any input
        outside of `differentiate` if that is given. `function` takes the inputs in order and returns one tensor or more.
        """
        name = f"{operator}/{label}"
        random = random_of(name)
        values = {}
        for key, sample in inputs.items():
            array = np.asarray(sample(random))
            values[key] = array.astype(np.float32) if array.dtype.kind == "f" else array
        wanted = [key for key, array in values.items() if array.dtype.kind == "f"]
        if differentiate is not None:
            wanted = [key for key in wanted if key in differentiate]
        live = {
            key: torch.tensor(array, dtype=torch.float64, requires_grad=key in wanted)
            if array.dtype.kind == "f"
            else torch.tensor(array)
            for key, array in values.items()
        }
        result = function(*live.values())
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        tensors = {f"input.{key}": array for key, array in values.items()}
        loss = torch.zeros((), dtype=torch.float64)
        for place, output in enumerate(outputs):
            output = output.to(torch.float64)
            tensors[f"output.{place}"] = output
            if wanted:
                weights = random.uniform(-1, 1, tuple(output.shape)).astype(np.float32)
                tensors[f"projection.{place}"] = weights
                loss = loss + (output * torch.tensor(weights, dtype=torch.float64)).sum()
        if wanted:
            found = torch.autograd.grad(loss, [live[key] for key in wanted])
            for key, gradient in zip(wanted, found):
                tensors[f"gradient.{key}"] = gradient
        self.writer.add(
            "operators",
            name,
            tensors,
            operator=operator,
            inputs=list(inputs),
            differentiated=wanted,
            outputs=len(outputs),
            options=options,
        )


def add_operator_cases(writer):
    case = OperatorCases(writer)
    elementwise(case)
    comparisons(case)
    layout(case)
    reductions(case)
    products(case)
    normalisation(case)
    convolution(case)
    optimisation(case)


def elementwise(case):
    broadcasts = {
        "same shape": ((3, 4), (3, 4)),
        "row": ((3, 4), (4,)),
        "both sides": ((2, 1, 4), (3, 1)),
        "scalar tensor": ((), (2, 3)),
        "inner one": ((2, 3, 1), (2, 3, 5)),
    }
    binary = {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "div": torch.div,
        "pow": torch.pow,
        "maximum": torch.maximum,
        "minimum": torch.minimum,
    }
    for operator, function in binary.items():
        sample = positive if operator in ("div", "pow") else uniform
        for label, (a, b) in broadcasts.items():
            case(operator, label, {"a": sample(*a), "b": sample(*b)}, function)
        number = 1.5
        case(operator, "number right", {"a": sample(3, 2)}, lambda a, f=function: f(a, torch.full_like(a, number)), right=number)
        case(operator, "number left", {"b": sample(3, 2)}, lambda b, f=function: f(torch.full_like(b, number), b), left=number)
    for operator in ("maximum", "minimum"):
        ties = {"a": fixed([1.0, 2.0, -1.0]), "b": fixed([1.0, 1.0, -1.0])}
        case(operator, "ties", ties, binary[operator])
    case("mul", "the same tensor twice", {"a": uniform(5)}, lambda a: a * a, both="a")
    for exponent in (3.0, 2.0, 0.5, -1.5):
        case("pow", f"constant {exponent}", {"a": positive(4)}, lambda a, e=exponent: torch.pow(a, e), right=exponent)
    case("pow", "negative base", {"a": uniform(6)}, lambda a: torch.pow(a, 3), right=3.0)

    case("addAll", "three", {"a": uniform(2, 3), "b": uniform(2, 3), "c": uniform(2, 3)}, lambda a, b, c: a + b + c)
    far = fixed([-100.0, -30.0, -5.0, -0.1, 0.0, 0.1, 5.0, 30.0, 100.0])
    unary = {
        "neg": (torch.neg, uniform),
        "abs": (torch.abs, uniform),
        "exp": (torch.exp, uniform),
        "log": (torch.log, positive),
        "sqrt": (torch.sqrt, positive),
        "square": (torch.square, uniform),
        "sin": (torch.sin, uniform),
        "cos": (torch.cos, uniform),
        "tanh": (torch.tanh, uniform),
        "sigmoid": (torch.sigmoid, uniform),
        "softplus": (F.softplus, uniform),
        "logSigmoid": (F.logsigmoid, uniform),
        "relu": (torch.relu, uniform),
        "erf": (torch.erf, uniform),
        "silu": (F.silu, uniform),
    }
    for operator, (function, sample) in unary.items():
        case(operator, "matrix", {"x": sample(3, 5)}, function)
        case(operator, "scalar", {"x": sample()}, function)
    for operator in ("tanh", "sigmoid", "softplus", "logSigmoid", "silu", "erf"):
        case(operator, "far from 0", {"x": far}, unary[operator][0])
    for operator in ("abs", "relu"):
        case(operator, "at 0", {"x": fixed([-1.0, 0.0, 2.0])}, unary[operator][0])
    for approximate in ("none", "tanh"):
        gelu = lambda x, a=approximate: F.gelu(x, approximate=a)
        case("gelu", f"{approximate}, matrix", {"x": uniform(4, 6, low=-4, high=4)}, gelu, approximate=approximate)
        case("gelu", f"{approximate}, far from 0", {"x": far}, gelu, approximate=approximate)
    case("clip", "random", {"x": uniform(4, 4)}, lambda x: torch.clamp(x, -0.5, 0.75), low=-0.5, high=0.75)
    # Not at the bounds themselves, where any gradient between 0 and that of the result is a subgradient: PyTorch's own
    # forms of clamp give 0 and one half there, tensor-graph documents one.
    edges = fixed([-0.50001, -0.49999, 0.74999, 0.75001])
    case("clip", "beside its bounds", {"x": edges}, lambda x: torch.clamp(x, -0.5, 0.75), low=-0.5, high=0.75)


def comparisons(case):
    comparison = {
        "equal": torch.eq,
        "less": torch.lt,
        "lessOrEqual": torch.le,
        "greater": torch.gt,
        "greaterOrEqual": torch.ge,
    }
    small = lambda *shape: lambda random: random.integers(-1, 2, shape).astype(np.float32)
    for operator, function in comparison.items():
        case(operator, "broadcast", {"a": small(3, 1), "b": small(4)}, function, differentiate=[])
    case("sign", "with 0", {"x": fixed([-2.0, 0.0, 3.0])}, torch.sign, differentiate=[])
    bits = lambda *shape: lambda random: random.integers(0, 2, shape).astype(bool)
    case("and", "broadcast", {"a": bits(3, 1), "b": bits(4)}, torch.logical_and)
    case("or", "broadcast", {"a": bits(3, 1), "b": bits(4)}, torch.logical_or)
    case("not", "vector", {"x": bits(6)}, torch.logical_not)
    case("where", "same shape", {"condition": bits(3, 4), "a": uniform(3, 4), "b": uniform(3, 4)}, torch.where)
    case("where", "all broadcast", {"condition": bits(3, 1), "a": uniform(2, 1, 4), "b": uniform(4)}, torch.where)
    case("where", "scalar branch", {"condition": bits(2, 3), "a": uniform(), "b": uniform(2, 3)}, torch.where)


def layout(case):
    case("reshape", "inferred extent", {"x": uniform(2, 3, 4)}, lambda x: x.reshape(4, -1), shape=[4, -1])
    case("transpose", "permutation", {"x": uniform(2, 3, 4)}, lambda x: x.permute(2, 0, 1), permutation=[2, 0, 1])
    case("transpose", "all reversed", {"x": uniform(2, 3, 4)}, lambda x: x.permute(2, 1, 0))
    case("transpose", "of five axes", {"x": uniform(2, 2, 3, 2, 2)}, lambda x: x.permute(2, 0, 3, 1, 4), permutation=[2, 0, 3, 1, 4])
    case("swapLastAxes", "rank 3", {"x": uniform(2, 3, 4)}, lambda x: x.mT)
    case("expand", "new and old axes", {"x": uniform(3, 1)}, lambda x: x.expand(2, 3, 4), shape=[2, 3, 4])
    for start, end, step in ((1, 5, 1), (0, 7, 2), (2, 7, 3), (-3, -1, 1)):
        case(
            "slice",
            f"{start} to {end} by {step}",
            {"x": uniform(2, 7)},
            lambda x, s=slice(start, end, step): x[:, s],
            axis=1,
            start=start,
            end=end,
            step=step,
        )
    case("concat", "middle axis", {"a": uniform(2, 1, 3), "b": uniform(2, 4, 3), "c": uniform(2, 2, 3)}, lambda *x: torch.cat(x, 1), axis=1)
    case("split", "all parts", {"x": uniform(2, 6)}, lambda x: torch.split(x, [1, 3, 2], 1), axis=1, sizes=[1, 3, 2], take=[0, 1, 2])
    case("split", "some parts", {"x": uniform(6, 2)}, lambda x: torch.split(x, [1, 3, 2], 0)[1:2], axis=0, sizes=[1, 3, 2], take=[1])
    case("pad", "both sides", {"x": uniform(2, 3)}, lambda x: F.pad(x, (2, 1, 0, 3)), before=[0, 2], after=[3, 1])
    for dtype in (np.int32, np.int64):
        picks = fixed([[0, 2, -1], [2, 2, 1]], dtype)
        case("gather", f"rows, {dtype.__name__}", {"x": uniform(3, 4), "indices": picks}, lambda x, i: x[i.long()], axis=0)
    case("gather", "inner axis", {"x": uniform(2, 5, 3), "indices": fixed([4, 0, 0, -2], np.int64)}, lambda x, i: x[:, i], axis=1)
    repeated = fixed([[0, 1, 0], [2, 2, 2]], np.int64)
    scatter = {"base": uniform(4, 3), "indices": repeated, "updates": uniform(2, 3)}
    case("scatterAdd", "axis 0, repeated", scatter, lambda b, i, u: torch.scatter_add(b, 0, i, u), axis=0)
    scatter = {"base": uniform(2, 5), "indices": repeated, "updates": uniform(2, 3)}
    case("scatterAdd", "axis 1, repeated", scatter, lambda b, i, u: torch.scatter_add(b, 1, i, u), axis=1)
    places = fixed([[0, 2], [1, 0]], np.int64)
    case("gatherNd", "elements", {"x": uniform(2, 3), "indices": places}, lambda x, i: x[i[:, 0], i[:, 1]])
    case("gatherNd", "rows, repeated", {"x": uniform(3, 4), "indices": fixed([[2], [0], [2]], np.int64)}, lambda x, i: x[i[:, 0]])
    scatter = {"base": uniform(2, 3), "indices": places, "updates": uniform(2)}
    case("scatterNd", "elements", scatter, lambda b, i, u: torch.index_put(b, (i[:, 0], i[:, 1]), u), add=False)
    scatter = {"base": uniform(3, 4), "indices": fixed([[2], [0], [2]], np.int64), "updates": uniform(3, 4)}
    case("scatterNd", "rows, added, repeated", scatter, lambda b, i, u: torch.index_add(b, 0, i[:, 0], u), add=True)
    # What the gradient of scatterAdd is made of; it is differentiated only in second derivatives.
    case("gatherElements", "axis 0", {"x": uniform(4, 3), "indices": repeated}, lambda x, i: torch.gather(x, 0, i), axis=0)
    case("cast", "to float64 and back", {"x": uniform(5)}, torch.square, dtype="float64")
    case("cast", "to int32 and back", {"x": uniform(9, low=-4, high=4)}, torch.trunc, differentiate=[], dtype="int32")
    case("stopGradient", "one factor of two", {"x": uniform(5)}, lambda x: x * (x + 3).detach())


def reductions(case):
    functions = {"reduceSum": torch.sum, "reduceMean": torch.mean, "reduceMax": torch.amax, "reduceMin": torch.amin}
    for operator, function in functions.items():
        case(operator, "all axes", {"x": uniform(3, 4)}, lambda x, f=function: f(x, dim=(0, 1)))
        case(operator, "first axis", {"x": uniform(3, 4)}, lambda x, f=function: f(x, dim=0), axes=[0])
        case(
            operator,
            "two axes, kept",
            {"x": uniform(2, 3, 4)},
            lambda x, f=function: f(x, dim=(0, 2), keepdim=True),
            axes=[0, -1],
            keepDims=True,
        )
    for operator in ("reduceMax", "reduceMin"):
        ties = fixed([[1.0, 2.0, 2.0], [-1.0, -1.0, -1.0], [3.0, 0.0, 0.0]])
        case(operator, "ties", {"x": ties}, lambda x, f=functions[operator]: f(x, dim=1), axes=[1])
    for operator, function in {"softmax": torch.softmax, "logSoftmax": torch.log_softmax}.items():
        case(operator, "last axis", {"x": uniform(2, 3, 5)}, lambda x, f=function: f(x, -1))
        case(operator, "middle axis", {"x": uniform(2, 4, 3)}, lambda x, f=function: f(x, 1), axis=1)
        case(operator, "large logits", {"x": uniform(3, 6, low=-80, high=80)}, lambda x, f=function: f(x, 1), axis=1)


def products(case):
    shapes = {
        "matrices": ((3, 4), (4, 2)),
        "batch of two axes": ((2, 3, 4, 5), (2, 3, 5, 2)),
        "shared right": ((2, 3, 4), (4, 2)),
        "shared left": ((3, 4), (2, 4, 2)),
        "broadcast batches": ((2, 1, 3, 4), (3, 4, 2)),
        "one row": ((2, 1, 4), (2, 4, 3)),
    }
    for label, (a, b) in shapes.items():
        case("matMul", label, {"a": uniform(*a), "b": uniform(*b)}, torch.matmul)
    case("matMul", "left transposed", {"a": uniform(2, 4, 3), "b": uniform(2, 4, 2)}, lambda a, b: a.mT @ b, transposeA=True)
    case("matMul", "right transposed", {"a": uniform(2, 3, 4), "b": uniform(2, 5, 4)}, lambda a, b: a @ b.mT, transposeB=True)
    case("matMul", "both transposed", {"a": uniform(4, 3), "b": uniform(2, 4)}, lambda a, b: a.T @ b.T, transposeA=True, transposeB=True)
    for ta in (False, True):
        for tb in (False, True):
            function = lambda a, b, c, x=ta, y=tb: torch.addmm(c, a.T if x else a, b.T if y else b)
            inputs = {"a": uniform(*((4, 3) if ta else (3, 4))), "b": uniform(*((2, 4) if tb else (4, 2)))}
            label = f"{'t' if ta else 'n'}{'t' if tb else 'n'}"
            case("gemm", f"{label}, row", {**inputs, "c": uniform(2)}, function, transposeA=ta, transposeB=tb)
    case("gemm", "column", {"a": uniform(3, 4), "b": uniform(4, 2), "c": uniform(3, 1)}, lambda a, b, c: a @ b + c)
    case("gemm", "without c", {"a": uniform(3, 4), "b": uniform(4, 2)}, torch.mm)
    layer = {"x": uniform(2, 3, 4), "weight": uniform(4, 5), "bias": uniform(5)}
    case("linear", "with bias", layer, lambda x, w, b: F.linear(x, w.T, b))
    case("linear", "without bias", {"x": uniform(4), "weight": uniform(4, 5)}, lambda x, w: F.linear(x, w.T))


def normalisation(case):
    affine = {"scale": uniform(6), "bias": uniform(6)}
    for epsilon in (1e-5, 0.1):
        label = f"epsilon {epsilon}"
        norm = lambda x, s=None, b=None, e=epsilon: F.layer_norm(x, (6,), s, b, e)
        case("layerNorm", f"plain, {label}", {"x": uniform(2, 3, 6)}, norm, epsilon=epsilon)
        case("layerNorm", f"scale and bias, {label}", {"x": uniform(2, 3, 6), **affine}, norm, epsilon=epsilon)
        norm = lambda x, s=None, e=epsilon: F.rms_norm(x, (6,), s, e)
        case("rmsNorm", f"plain, {label}", {"x": uniform(2, 6)}, norm, epsilon=epsilon)
        case("rmsNorm", f"scale, {label}", {"x": uniform(2, 3, 6), "scale": uniform(6)}, norm, epsilon=epsilon)
    case("layerNorm", "scale only", {"x": uniform(3, 6), "scale": uniform(6)}, lambda x, s: F.layer_norm(x, (6,), s))
    for groups in (1, 2, 6):
        norm = lambda x, s=None, b=None, g=groups: F.group_norm(x, g, s, b)
        case("groupNorm", f"plain, {groups}", {"x": uniform(2, 6, 3, 2)}, norm, groups=groups)
        case("groupNorm", f"scale and bias, {groups}", {"x": uniform(2, 6, 4), **affine}, norm, groups=groups)


def convolution(case):
    convolutions = {1: (F.conv1d, F.conv_transpose1d), 2: (F.conv2d, F.conv_transpose2d), 3: (F.conv3d, F.conv_transpose3d)}
    spatial = {1: (9,), 2: (5, 6), 3: (4, 5, 4)}
    settings = {
        "plain": {},
        "strided and padded": {"strides": 2, "padding": 1},
        "dilated": {"dilations": 2, "padding": 1},
        "two groups": {"groups": 2, "strides": 2},
    }
    torch_names = {"strides": "stride", "padding": "padding", "dilations": "dilation", "groups": "groups", "outputPadding": "output_padding"}
    for axes, (forward, transposed) in convolutions.items():
        kernel = (3, 2, 2)[:axes]
        for label, options in settings.items():
            keywords = {torch_names[key]: value for key, value in options.items()}
            groups = options.get("groups", 1)
            inputs = {"x": uniform(2, 4, *spatial[axes]), "weight": uniform(2, 4 // groups, *kernel), "bias": uniform(2)}
            case("conv", f"{axes}d, {label}", inputs, lambda x, w, b, f=forward, k=keywords: f(x, w, b, **k), **options)
            small = tuple(extent - 2 for extent in spatial[axes])
            if options.get("strides") == 2:
                options = {**options, "outputPadding": 1}
                keywords = {**keywords, "output_padding": 1}
            inputs = {"x": uniform(2, 4, *small), "weight": uniform(4, 2 // groups, *kernel), "bias": uniform(2)}
            case("convTranspose", f"{axes}d, {label}", inputs, lambda x, w, b, f=transposed, k=keywords: f(x, w, b, **k), **options)
    case(
        "conv",
        "per axis, without bias",
        {"x": uniform(1, 2, 6, 5), "weight": uniform(3, 2, 3, 2)},
        lambda x, w: F.conv2d(x, w, None, (2, 1), (1, 0), (1, 2)),
        strides=[2, 1],
        padding=[1, 0],
        dilations=[1, 2],
    )
    for factors in ([3], [2, 3], [2, 1, 3]):
        case(
            "resizeNearest",
            f"{len(factors)}d",
            {"x": uniform(1, 2, 3, *([2] * (len(factors) - 1)))},
            lambda x, f=factors: F.interpolate(x, scale_factor=tuple(float(n) for n in f), mode="nearest"),
            factors=factors,
        )


def optimisation(case):
    """The builders of the optimiser that the training cases do not use one by one. Not differentiated."""

    def clipped(limit):
        def function(a, b):
            parameters = [torch.nn.Parameter(torch.zeros_like(x)) for x in (a, b)]
            for parameter, gradient in zip(parameters, (a, b)):
                parameter.grad = gradient.clone()
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
            return [*(parameter.grad for parameter in parameters), norm]

        return function

    for label, limit in {"above the limit": 0.5, "below the limit": 100.0}.items():
        case("clipByGlobalNorm", label, {"a": uniform(3, 2), "b": uniform(4)}, clipped(limit), differentiate=[], limit=limit)
    ema = lambda average, value: torch.lerp(average, value, 1 - 0.9)
    case("ema", "decay 0.9", {"average": uniform(5), "value": uniform(5)}, ema, differentiate=[], decay=0.9)
