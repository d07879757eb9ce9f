"""Checks of image encoders: their names, networks, weights and features. torch is imported for annotations only."""

from __future__ import annotations

from collections.abc import Mapping
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, NoReturn, cast

from .models import positive_int
from .names import duplicates, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from torch import Tensor

EXTRA = 'pip install "stpredict-histology[encoders]"'
WEIGHTS = "'none', 'timm', 'hub', 'hub@REVISION', 'hub:OWNER/NAME', 'local-dir:FOLDER', or the path of a file"
"""What ``weights`` can be."""
TOLERANCE = 1e-3
"""Largest difference of a colour constant that is a matter of rounding."""


# ---- names


def encoder_list(encoder: object, weights: object) -> None:
    """Refuse a list with an encoder twice or with given embeddings, and weights that are not one for each encoder."""
    if isinstance(encoder, tuple):
        if twice := duplicates(encoder):
            msg = f"`encoder` has {', '.join(map(repr, twice))} twice (given: {list(encoder)}). Name each encoder once."
            raise ValueError(msg)
        if "given" in encoder:
            msg = (
                f"`encoder` is {list(encoder)}, and 'given' is for embeddings alone. Compute all features first, put "
                "them side by side into one `obsm`, and name it by `features_key`."
            )
            raise ValueError(msg)
    n_encoders = len(encoder) if isinstance(encoder, tuple) else 1
    if isinstance(weights, tuple) and len(weights) != n_encoders:
        msg = (
            f"`weights` has {len(weights)} entries and `encoder` {n_encoders}. Give one for each encoder in the same "
            f"order, or one text for all: {WEIGHTS}."
        )
        raise ValueError(msg)


def builds(name: str, why_not: str) -> None:
    """Refuse an encoder of the table that cannot be built."""
    if why_not:
        msg = (
            f"The encoder {name!r} is not built here: {why_not}. Compute its features elsewhere, read them with "
            f"`stp.io.read_embeddings`, and call `stp.tl.fit(sdata, 'encoder_ridge', features_key='X_{name}')`."
        )
        raise ValueError(msg)


def known_encoder(name: str, keys: Iterable[str], in_table: str | None, library: Any) -> None:
    """Refuse a name that neither our table nor timm has; ``in_table`` is the key of a repository on the hub."""
    is_repository = name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or "/" in name
    if not is_repository and library.is_model(name):
        return
    if in_table is not None:
        msg = f"`encoder` is {name!r}. Its key is {in_table!r}: give `encoder={in_table!r}, weights='hub'`."
    elif is_repository:
        msg = (
            f"`encoder` is {name!r}, but architectures are not read from a repository or folder. Give a key of "
            "`stp.models.encoders()` or a name of `timm.list_models()` as `encoder`, and the place of the weights as "
            "`weights`, 'hub:OWNER/NAME' or 'local-dir:FOLDER'."
        )
    else:
        near = ", ".join(map(repr, nearest(name, [*keys, *library.list_models()], cutoff=0)))
        msg = (
            f"There is no encoder {name!r} (nearest: {near}). Give 'statistics', a key of `stp.models.encoders()`, or "
            "a name of `timm.list_models()`."
        )
    raise ValueError(msg)


def embedding_width(encoder: object, n_features: object) -> None:
    """Refuse embeddings without a width, and a width for an encoder that has its own."""
    if encoder == "given":
        positive_int("n_features", n_features)
    elif n_features != 0:
        msg = (
            f"`n_features` is {n_features!r} and `encoder` {encoder!r}, which has a width of its own. Leave it at 0, "
            "or give `encoder='given'`."
        )
        raise ValueError(msg)


# ---- libraries


def import_timm() -> Any:
    """The timm library; if it is missing, an error with the command to install it."""
    try:
        import timm as library
    except ImportError:
        msg = f'Image encoders need timm: {EXTRA}, or give `encoder="statistics"`.'
        raise ImportError(msg) from None
    return library


def import_transformers(name: str) -> Any:
    """The transformers library; if it is missing, an error with the command to install it."""
    try:
        import transformers as library
    except ImportError:
        msg = f"The encoder {name!r} needs transformers: {EXTRA}, or give another `encoder`."
        raise ImportError(msg) from None
    return library


# ---- networks


def smallest_input(name: str, size_px: int, patch_px: int) -> None:
    """Refuse patches that are smaller than the smallest input of an encoder."""
    if size_px < patch_px:
        msg = (
            f"`size_px` is {size_px}; the smallest input of the encoder {name!r} is {patch_px} px. Give at least "
            f"{patch_px}; the encoder was trained with 224."
        )
        raise ValueError(msg)


def network(name: str, found: tuple[int, int], expected: tuple[int, int]) -> None:
    """Refuse a network whose width or number of parameters (within 1 %) is not that of its row."""
    if found[0] != expected[0] or abs(found[1] - expected[1]) > 0.01 * expected[1]:
        msg = (
            f"The installed library builds {name!r} with {found[0]} features and {found[1]:,} parameters; it has "
            f"{expected[0]} and {expected[1]:,}. Install versions that `stpredict-histology[encoders]` permits."
        )
        raise ValueError(msg)


def output_width(name: object, shape: tuple[int, ...], n_features: int) -> None:
    """Refuse an output that is not one vector of the expected width for each patch."""
    if len(shape) != 2 or shape[1] != n_features:
        msg = (
            f"The encoder {name!r} returned the shape {shape}; (b, {n_features}) was expected. Install versions of "
            "timm and transformers that `stpredict-histology[encoders]` permits."
        )
        raise ValueError(msg)


def single_token_grid(tokens: object, name: object) -> Tensor:
    """The tokens of a network; refuse networks with several grids of tokens."""
    if not hasattr(tokens, "ndim"):
        msg = f"{name!r} has several grids of tokens, not one. Name an encoder with one, such as 'resnet18'."
        raise ValueError(msg)
    return cast("Tensor", tokens)


# ---- weights


def weights_of_timm(name: str) -> NoReturn:
    """Refuse the weights of timm for an encoder of our table."""
    msg = f"`weights` is 'timm', which has none for {name!r}. Give 'hub', 'local-dir:FOLDER', or the path of a file."
    raise ValueError(msg)


def repository(name: str, found: str) -> str:
    """The repository with the weights of an encoder; refuse an encoder without one."""
    if not found:
        msg = (
            f"`weights` is 'hub', but timm names no repository for {name!r}. Give 'timm', 'hub:OWNER/NAME', or the "
            "path of a file."
        )
        raise ValueError(msg)
    return found


def weights_file(path: Path) -> Path:
    """The path of an existing file."""
    if not path.is_file():
        msg = f"`weights` is {str(path)!r}, which is not a file. Give {WEIGHTS}."
        raise ValueError(msg)
    return path


def weights_folder(folder: Path, names: Sequence[str]) -> Path:
    """The first of some files that a folder has."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
    msg = (
        f"`weights` is 'local-dir:{folder}', which has none of {', '.join(map(repr, names))} (found: "
        f"{found or 'nothing'}). Download the repository with `hf download`, or give the path of a file."
    )
    raise ValueError(msg)


def hub_error(error: Exception, repository: str, revision: str, files: Sequence[str]) -> ValueError:
    """The error that says why weights could not be had from the hub, and what to do."""
    kinds = {each.__name__ for each in type(error).__mro__}
    place = f"{repository!r} on the Hugging Face hub"
    if "GatedRepoError" in kinds:
        msg = (
            f"The weights of {place} are gated, and you have no access yet. Accept the conditions on "
            f"https://huggingface.co/{repository}, run `hf auth login`, and call again."
        )
    elif kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError"}:
        msg = (
            f"The weights of {place} are not in the cache of this computer, and the hub cannot be reached (no network, "
            f"or HF_HUB_OFFLINE is set). Run `hf download {repository}` where there is a network, or give a file or "
            "'local-dir:FOLDER' as `weights`."
        )
    elif "RevisionNotFoundError" in kinds:
        msg = f"{place} has no revision {revision!r}. Give a commit, branch or tag that its page lists."
    elif "EntryNotFoundError" in kinds:
        msg = (
            f"{place} has none of the files {', '.join(files)}. Download the file with its weights and give the path "
            "as `weights`."
        )
    elif "RepositoryNotFoundError" in kinds:
        msg = (
            f"There is no {place}, or it is private. Give the repository of `stp.models.encoders()`, or log in with "
            "`hf auth login`."
        )
    else:
        msg = f"The weights of {place} could not be read ({error}). Give a local file or 'local-dir:FOLDER' instead."
    return ValueError(msg)


def tensors_only(path: Path, load: Callable[..., Any]) -> Mapping[str, Tensor]:
    """The state dict in a file of torch; refuse a file with code, or without named tensors."""
    try:
        state = load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        why = str(error).partition("\n")[0] or "it is empty"
        msg = f"{str(path)!r} cannot be loaded without running code from it: {why}. Save its state dict as safetensors."
        raise ValueError(msg) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict", state.get("model")), Mapping):
        state = state.get("state_dict", state.get("model"))
    if not isinstance(state, Mapping) or not all(hasattr(value, "shape") for value in state.values()):
        msg = f"{str(path)!r} has no named tensors. Save the state dict of the network."
        raise ValueError(msg)
    return state


def safetensors_only(path: Path, load: Callable[[Path], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file; refuse a file that is none."""
    from safetensors import SafetensorError

    try:
        return load(path)
    except SafetensorError as error:
        msg = f"{str(path)!r} is no complete safetensors file ({error}). Download it again."
        raise ValueError(msg) from error


def weights_fit(name: str, n_wanted: int, missing: Sequence[str], other: Sequence[str], source: str) -> None:
    """Refuse weights of another network; ``missing`` tensors, and those of ``other`` shapes."""
    if missing or other:
        msg = (
            f"The weights in {source!r} are of another network than {name!r}: {len(missing)} of {n_wanted} tensors "
            f"missing {sorted(missing)[:3]}, {len(other)} of another shape {sorted(other)[:3]}. Names must be those of "
            "timm, or of transformers for its models."
        )
        raise ValueError(msg)


def normalization(
    name: str, stated: Sequence[Sequence[float]], expected: Sequence[Sequence[float]], source: str
) -> None:
    """Refuse weights whose own configuration states other colour constants than the row of the encoder."""
    for what, found, known in zip(("mean", "standard deviation"), stated, expected, strict=True):
        if len(found) != len(known) or any(abs(a - b) > TOLERANCE for a, b in zip(found, known, strict=True)):
            msg = (
                f"The configuration beside the weights in {source!r} normalises colours with the {what} {list(found)}; "
                f"{name!r} was trained with {list(known)}. Give the weights of that encoder."
            )
            raise ValueError(msg)
