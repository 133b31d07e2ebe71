"""Image classifiers in Flax Linen, in full precision, with names that a policy can rely on.

Quantisation comes from outside, by paths such as ``stage1_block0/conv1/kernel``.  In every model
the first layer with weights is ``stem``, the last ``head``; the batch normalisation after a layer
has the name of the layer and ``_norm``; weights to multiply with are all called ``kernel``.  Images
are (batch, height, width, channels), outputs are logits in float32.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._checks import AnyArray

Images = Float[AnyArray, "n h w c"]
Logits = Float[Array, "n k"]
Convolution = Callable[..., Array]

DTYPES = ("float16", "bfloat16", "float32")

# convolutions keep the variance of gradients; dense layers that of outputs, or the logits of a
# head with few classes would start far too large
_HE_CONVOLUTION = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_HE_DENSE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

_RESNET_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
_CIFAR_DEPTHS = (20, 32, 44, 56, 110)
_MOBILENET_BLOCKS = (  # channels and stride
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)


@dataclasses.dataclass(frozen=True)
class Layers:
    """How a network makes its layers: called inside its ``__call__``, they become its children.

    Attributes:
        dtype: of the computation; parameters and statistics stay in float32.
        convolution: in the place of ``jax.lax.conv_general_dilated``, or None.
        train: whether normalisation looks at the batch.
    """

    dtype: Any
    convolution: Convolution | None
    train: bool

    def convolve(
        self,
        name: str,
        x: Array,
        channels: int,
        size: int,
        stride: int = 1,
        *,
        padding: int | None = None,
        bias: bool = False,
        depthwise: bool = False,
    ) -> Array:
        """A square convolution, padded by half its size unless told otherwise.

        The padding is the same on both sides, which flax's "SAME" with a stride is not.
        """
        edge = size // 2 if padding is None else padding
        return nn.Conv(
            channels,
            (size, size),
            stride,
            padding=[(edge, edge), (edge, edge)],
            feature_group_count=x.shape[-1] if depthwise else 1,
            use_bias=bias,
            dtype=self.dtype,
            # one output for one input: what flax calls fan-in is both; its fan-out counts channels
            # that never meet
            kernel_init=_HE_DENSE if depthwise else _HE_CONVOLUTION,
            conv_general_dilated=self.convolution,
            name=name,
        )(x)

    def dense(self, name: str, x: Array, width: int, *, bias: bool = True) -> Array:
        """A product with a matrix."""
        return nn.Dense(width, use_bias=bias, dtype=self.dtype, kernel_init=_HE_DENSE, name=name)(x)

    def normalise(self, name: str, x: Array) -> Array:
        """Batch normalisation after the layer of that name."""
        return nn.BatchNorm(
            use_running_average=not self.train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            name=f"{name}_norm",
        )(x)

    def convolve_normalised(
        self,
        name: str,
        x: Array,
        channels: int,
        size: int,
        stride: int = 1,
        *,
        depthwise: bool = False,
    ) -> Array:
        """A convolution without bias and its batch normalisation."""
        y = self.convolve(name, x, channels, size, stride, depthwise=depthwise)
        return self.normalise(name, y)


class Classifier(nn.Module, kw_only=True):
    """What the models share.

    Attributes:
        dtype: of the computation, float16, bfloat16 or float32; parameters and batch statistics
            stay in float32.
        convolution: a function to call in the place of ``jax.lax.conv_general_dilated`` (with its
            arguments) by every convolution; None for that function itself.

    Raises:
        ValueError: at construction for fields that make no network, at the call for images that
            are too small or no images.
    """

    dtype: Any = jnp.float32
    convolution: Convolution | None = None

    smallest: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Check the fields, here and in the models."""
        # a field of every model and not of this class, where it would come before their others
        _checks.positive_integer("classes", vars(self)["classes"])
        try:
            name = jnp.dtype(self.dtype).name
        except TypeError:
            name = repr(self.dtype)
        _checks.one_of("dtype", name, DTYPES)
        if self.convolution is not None and not callable(self.convolution):
            raise ValueError(
                "convolution: expected a function with the arguments of "
                f"jax.lax.conv_general_dilated or None, got {self.convolution!r}"
            )
        super().__post_init__()

    def layers(self, train: bool) -> Layers:
        """How this network makes its layers."""
        return Layers(self.dtype, self.convolution, train)

    def images(self, x: AnyArray) -> Array:
        """Images in the dtype of the computation, checked."""
        if np.ndim(x) != 4 or 0 in np.shape(x):
            raise ValueError(
                "x: expected images of shape (batch, height, width, channels), got shape "
                f"{np.shape(x)}; add the missing axes with jnp.reshape"
            )
        if min(x.shape[1:3]) < self.smallest:
            raise ValueError(
                f"x: {type(self).__name__} needs images of at least {self.smallest} x "
                f"{self.smallest} pixels, got {x.shape[1]} x {x.shape[2]}; enlarge them with "
                "jax.image.resize or take a model for smaller ones"
            )
        return self.numbers(x)

    def numbers(self, x: AnyArray) -> Array:
        """The input in the dtype of the computation, if it is real floating point."""
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"x: expected real floating point numbers, got {x.dtype}; convert and normalise "
                "the images"
            )
        return x.astype(self.dtype)


class Perceptron(Classifier):
    """Dense layers without biases, each with batch normalisation, the last one too.

    With few bits in every layer the outputs need a scale, which ``head_norm`` gives them.

    Attributes:
        widths: of the hidden layers, ``stem``, ``hidden2``, ...
        classes: how many.
    """

    widths: tuple[int, ...]
    classes: int

    def __post_init__(self) -> None:
        """Check the fields."""
        _positive_integers("widths", self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[AnyArray, "n ..."], *, train: bool) -> Logits:
        """Logits of images or of vectors of features."""
        if np.ndim(x) < 2 or 0 in np.shape(x):
            raise ValueError(
                "x: expected an array of shape (batch, ...) with at least one feature, got shape "
                f"{np.shape(x)}; add the missing axis with jnp.reshape"
            )
        layers = self.layers(train)
        y = self.numbers(x).reshape(x.shape[0], -1)
        for place, width in enumerate(self.widths, start=1):
            name = "stem" if place == 1 else f"hidden{place}"
            y = nn.relu(layers.normalise(name, layers.dense(name, y, width, bias=False)))
        y = layers.normalise("head", layers.dense("head", y, self.classes, bias=False))
        return y.astype(jnp.float32)


class SmallConvNet(Classifier):
    """3x3 convolutions, all with stride 2: for studies on a CPU.

    Attributes:
        classes: how many.
        channels: of the convolutions, ``stem``, ``conv2``, ...
    """

    classes: int
    channels: tuple[int, ...] = (16, 32, 64)

    def __post_init__(self) -> None:
        """Check the fields."""
        _positive_integers("channels", self.channels)
        super().__post_init__()

    @property
    def smallest(self) -> int:  # type: ignore[override]
        """By how much the image shrinks."""
        return 2 ** len(self.channels)

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Logits:
        """Logits of images."""
        layers = self.layers(train)
        y = self.images(x)
        for place, channels in enumerate(self.channels, start=1):
            name = "stem" if place == 1 else f"conv{place}"
            y = nn.relu(layers.convolve_normalised(name, y, channels, 3, 2))
        return layers.dense("head", _mean_of_pixels(y), self.classes).astype(jnp.float32)


class CifarResNet(Classifier):
    """The residual networks for small images, with shortcuts that have no parameters.

    Attributes:
        depth: 20, 32, 44, 56 or 110, six times the blocks in a stage and two.
        classes: how many.

    Source: He, Zhang, Ren, Sun, *Deep residual learning for image recognition* (2016), 4.2
    """

    depth: int
    classes: int

    smallest: ClassVar[int] = 4

    def __post_init__(self) -> None:
        """Check the fields."""
        _depth(self.depth, _CIFAR_DEPTHS)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Logits:
        """Logits of images."""
        layers = self.layers(train)
        y = nn.relu(layers.convolve_normalised("stem", self.images(x), 16, 3))
        for stage, channels in enumerate((16, 32, 64), start=1):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 1 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                y = BasicBlock(layers, channels, stride, projected=False, name=name)(y)
        return layers.dense("head", _mean_of_pixels(y), self.classes).astype(jnp.float32)


class ResNet(Classifier):
    """The residual networks for large images, with projections where the shape changes.

    Attributes:
        depth: 18, of basic blocks, or 50, of bottlenecks with their stride in the 3x3 convolution
            (the original has it in the 1x1 before).
        classes: how many.

    Source: He, Zhang, Ren, Sun, *Deep residual learning for image recognition* (2016), table 1
    """

    depth: int
    classes: int

    smallest: ClassVar[int] = 32

    def __post_init__(self) -> None:
        """Check the fields."""
        _depth(self.depth, tuple(_RESNET_BLOCKS))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Logits:
        """Logits of images."""
        layers = self.layers(train)
        y = nn.relu(layers.convolve_normalised("stem", self.images(x), 64, 7, 2))
        y = nn.max_pool(y, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        block_type = BasicBlock if self.depth == 18 else Bottleneck
        for stage, blocks in enumerate(_RESNET_BLOCKS[self.depth], start=1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                y = block_type(layers, 32 * 2**stage, stride, name=name)(y)
        return layers.dense("head", _mean_of_pixels(y), self.classes).astype(jnp.float32)


class AlexNet(Classifier):
    """The single-column form, with biases and dropout and without normalisation.

    In training it needs a generator: ``rngs={"dropout": key}``.  The first dense layer takes all
    that the convolutions leave, 6 x 6 pixels of an image of 224 x 224.

    Attributes:
        classes: how many.

    Source: Krizhevsky, *One weird trick for parallelizing convolutional neural networks* (2014)
    """

    classes: int

    smallest: ClassVar[int] = 63

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Logits:
        """Logits of images."""
        layers = self.layers(train)
        pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))
        y = layers.convolve("stem", self.images(x), 64, 11, 4, padding=2, bias=True)
        y = layers.convolve("conv2", pool(nn.relu(y)), 192, 5, bias=True)
        y = layers.convolve("conv3", pool(nn.relu(y)), 384, 3, bias=True)
        y = layers.convolve("conv4", nn.relu(y), 256, 3, bias=True)
        y = layers.convolve("conv5", nn.relu(y), 256, 3, bias=True)
        y = pool(nn.relu(y)).reshape(x.shape[0], -1)
        for name in ("dense6", "dense7"):
            y = nn.Dropout(0.5, deterministic=not train)(y)
            y = nn.relu(layers.dense(name, y, 4096))
        return layers.dense("head", y, self.classes).astype(jnp.float32)


class MobileNet(Classifier):
    """Version 1 of width 1: 3x3 convolutions of single channels, then 1x1 ones between them.

    Attributes:
        classes: how many.

    Source: Howard et al., *MobileNets* (2017), table 1
    """

    classes: int

    smallest: ClassVar[int] = 32

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Logits:
        """Logits of images."""
        layers = self.layers(train)
        y = nn.relu(layers.convolve_normalised("stem", self.images(x), 32, 3, 2))
        for place, (channels, stride) in enumerate(_MOBILENET_BLOCKS, start=1):
            y = SeparableBlock(layers, channels, stride, name=f"block{place}")(y)
        return layers.dense("head", _mean_of_pixels(y), self.classes).astype(jnp.float32)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected or padded with zeros where shapes differ."""

    layers: Layers
    channels: int
    stride: int
    projected: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n y x d"]:
        """The next feature maps."""
        y = self.layers.convolve_normalised("conv1", x, self.channels, 3, self.stride)
        y = self.layers.convolve_normalised("conv2", nn.relu(y), self.channels, 3)
        if x.shape != y.shape and self.projected:
            x = self.layers.convolve_normalised("shortcut", x, self.channels, 1, self.stride)
        elif x.shape != y.shape:
            x = padded_shortcut(x, self.channels, self.stride)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1, which ends in four times the channels, and a shortcut."""

    layers: Layers
    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n y x d"]:
        """The next feature maps."""
        y = nn.relu(self.layers.convolve_normalised("conv1", x, self.channels, 1))
        y = self.layers.convolve_normalised("conv2", y, self.channels, 3, self.stride)
        y = self.layers.convolve_normalised("conv3", nn.relu(y), 4 * self.channels, 1)
        if x.shape != y.shape:
            x = self.layers.convolve_normalised("shortcut", x, y.shape[-1], 1, self.stride)
        return nn.relu(x + y)


class SeparableBlock(nn.Module):
    """A 3x3 convolution of each channel for itself, then a 1x1 convolution that mixes them."""

    layers: Layers
    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n y x d"]:
        """The next feature maps."""
        y = self.layers.convolve_normalised(
            "depthwise", x, x.shape[-1], 3, self.stride, depthwise=True
        )
        return nn.relu(self.layers.convolve_normalised("pointwise", nn.relu(y), self.channels, 1))


def padded_shortcut(
    x: Float[AnyArray, "n h w c"], channels: int, stride: int
) -> Float[Array, "n y x d"]:
    """Every ``stride``-th pixel, with zeros for the channels that x does not have.

    Source: He, Zhang, Ren, Sun, *Deep residual learning for image recognition* (2016), option A
    """
    if channels < x.shape[-1]:
        raise ValueError(
            f"channels: expected at least the {x.shape[-1]} of the input, got {channels}"
        )
    more = channels - x.shape[-1]
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, more)))


def classifier(name: str, classes: int, **fields: Any) -> Classifier:
    """The model of a name in ``MODELS``.

    Args:
        name: of the model.
        classes: how many.
        fields: further fields of it, such as ``dtype`` or ``convolution``.

    Raises:
        ValueError: an unknown name or field.
    """
    _checks.one_of("name", name, MODELS)
    return MODELS[name](classes, **fields)


def _build(
    model: Callable[..., Classifier], fixed: dict[str, Any], classes: int, **fields: Any
) -> Classifier:
    known = {field.name for field in dataclasses.fields(model)}  # type: ignore[arg-type]
    known -= {"parent", "name", "classes", *fixed}
    for field in fields:
        _checks.one_of(f"fields of {getattr(model, '__name__', model)}", field, sorted(known))
    return model(classes=classes, **fixed, **fields)


MODELS: dict[str, Callable[..., Classifier]] = {
    "mlp": functools.partial(_build, Perceptron, {"widths": (256, 256)}),
    "small": functools.partial(_build, SmallConvNet, {}),
    **{
        f"resnet{depth}": functools.partial(_build, model, {"depth": depth})
        for model, depths in ((CifarResNet, _CIFAR_DEPTHS), (ResNet, _RESNET_BLOCKS))
        for depth in depths
    },
    "alexnet": functools.partial(_build, AlexNet, {}),
    "mobilenet": functools.partial(_build, MobileNet, {}),
}


def _mean_of_pixels(x: Array) -> Array:
    return jnp.mean(x, axis=(1, 2))


def _positive_integers(name: str, values: Any) -> None:
    if not isinstance(values, tuple | list) or not values:
        raise ValueError(f"{name}: expected a tuple of at least one integer, got {values!r}")
    for value in values:
        _checks.positive_integer(name, value)


def _depth(depth: int, known: tuple[int, ...]) -> None:
    if isinstance(depth, bool) or depth not in known:
        raise ValueError(f"depth: expected one of {known}, got {depth!r}")
