"""The options of training; fields that are not given follow the recipe of the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

from .._checks import config as check
from .._checks.calls import public
from ..models import recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Validation = Literal["auto", "slide", "block", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """How a network is trained.

    The fields that are given change the recipe of the model (`stp.models.recipe`), as a mapping of the same fields
    does; the other fields are then those of the recipe. Values that the recipe leaves open are the defaults here.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.tl.FitConfig(n_epochs=5, validation="slide").batch_size
    32
    """

    n_epochs: int = 30
    """Maximum number of passes over the training spots."""
    batch_size: int = 32
    """Spots per step, over all devices. A batch that does not fit a device is split, and its gradients accumulated."""
    window: int = 1024
    """Maximum number of spots of one slide that a model of context ``"slide"`` takes together, in place of a batch."""
    lr: float = 5e-4
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Decoupled weight decay; not applied to biases, norms, class tokens and position embeddings."""
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up before the cosine decay to zero."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    ema_decay: float = 0.99
    """Decay per step of the moving average of the weights, which is validated and kept; 0 switches it off."""
    patience: int = 10
    """Epochs without a better validation score before training stops."""
    validation: Validation = "auto"
    """What is held out for early stopping: whole groups of slides, contiguous spatial blocks of every slide, or nothing
    (then the last weights are kept). ``"auto"`` is slides if there are several groups (or, with ``allow_leakage``,
    several slides), else blocks."""
    n_members: int = 1
    """Number of networks of an ensemble, each with its own seed and validation group; predictions are their mean."""
    allow_leakage: bool = False
    """Allow validation on slides whose group is also trained on; the predictor records it."""
    min_library: float = 0.05
    """Spots with total counts below this share of the median of their slide are left out of training, since a failed
    spot is an outlier in every gene. Spots without counts are always left out."""
    flips: bool = True
    """Flip and rotate the patches of each spot by a random symmetry of the square, the same at all scales."""
    stain_jitter: float = 0.1
    """Standard deviation of the random gain of the optical density, per spot and colour channel."""
    brightness_jitter: float = 0.05
    """Standard deviation of the random shift of the optical density, per spot and colour channel."""
    seed: int = 0
    """Seed of initial weights, order, augmentation and masking."""
    accelerator: str = "auto"
    """Lightning Fabric: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``."""
    devices: int = 1
    """Number of devices on each machine."""
    num_nodes: int = 1
    """Number of machines."""
    strategy: str = "auto"
    """Lightning Fabric strategy, for instance ``"ddp"``."""
    precision: str = "auto"
    """Lightning Fabric precision; ``"auto"`` is bf16 if the device supports it natively, else float32."""
    memory_bytes: int = 1 << 30
    """Memory for decoded image and patches, in bytes. Patches that need more are kept in a temporary file."""
    progress: bool = True
    """Whether a progress bar is shown."""
    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    """Names of the fields that were given; not an option itself."""

    def __post_init__(self) -> None:
        check.in_range("n_epochs", self.n_epochs, 1, 100_000)
        check.in_range("batch_size", self.batch_size, 1, 1_000_000)
        check.in_range("window", self.window, 1, 1_000_000)
        check.in_range("lr", self.lr, 1e-8, 10.0)
        check.in_range("weight_decay", self.weight_decay, 0.0, 10.0)
        check.in_range("warmup_epochs", self.warmup_epochs, 0.0, self.n_epochs)
        check.in_range("clip_norm", self.clip_norm, 1e-6, 1e6)
        check.in_range("ema_decay", self.ema_decay, 0.0, 0.99999)
        check.in_range("patience", self.patience, 1, 100_000)
        check.in_range("n_members", self.n_members, 1, 100)
        check.in_range("min_library", self.min_library, 0.0, 1.0)
        check.in_range("stain_jitter", self.stain_jitter, 0.0, 1.0)
        check.in_range("brightness_jitter", self.brightness_jitter, 0.0, 1.0)
        check.in_range("seed", self.seed, 0, 2**31 - 1)
        check.in_range("memory_bytes", self.memory_bytes, 1, 2**63 - 1)
        check.one_of("validation", self.validation, ("auto", "slide", "block", "none"))

    def to_dict(self) -> dict[str, Any]:
        """The options by name, ready for JSON. A configuration made from all of them replaces a recipe.

        Returns
        -------
        A new dictionary.
        """
        return {name: value for name, value in asdict(self).items() if name != "given"}


def _record_given(cls: type[FitConfig]) -> None:
    """Let a new configuration know which of its fields were given."""
    plain, defaults = cls.__init__, {each.name: each.default for each in fields(cls)}

    @wraps(plain)
    def init(self: FitConfig, *, given: frozenset[str] | None = None, **values: Any) -> None:
        plain(self, **values)
        if given is None:
            given = frozenset(values)
        else:  # of `dataclasses.replace`, which gives all fields
            given |= {name for name, value in values.items() if value != defaults[name]}
        object.__setattr__(self, "given", given)

    setattr(cls, "__init__", public(init))  # noqa: B010  (mypy refuses the assignment)


_record_given(FitConfig)
TRAINING_FIELDS = tuple(each.name for each in fields(FitConfig) if each.name != "given")
"""Names of all options of training."""


def given_fields(
    config: FitConfig | Mapping[str, Any] | None, known: Sequence[str] = TRAINING_FIELDS
) -> dict[str, Any]:
    """The options that were given, by name; those that are not among ``known`` are refused."""
    given = {name: getattr(config, name) for name in config.given} if isinstance(config, FitConfig) else config or {}
    check.known_fields("`config`", list(given), known)
    return {name: given[name] for name in known if name in given}


def fit_config(config: FitConfig | Mapping[str, Any] | None, model: str) -> FitConfig:
    """The recipe of the model, changed by the fields that were given."""
    return FitConfig(**{**recipe(model), **given_fields(config)})
