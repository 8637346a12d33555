"""Name -> (model, tokenizer): the shipped model, a folder, or a hub name; device and precision.

Taught in notebooks/00_start_here.ipynb and notebooks/06_pretraining_the_base.ipynb.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers import logging as transformers_logging
from transformers.utils import cached_file

from ftlab import quantize, rope
from ftlab.base import untie
from ftlab.data.registry import data_dir
from ftlab.engine import fast
from ftlab.errors import ModelError
from ftlab.hardware import Choice as Choice
from ftlab.hardware import attention, here, packages, pick_device, pick_dtype

if TYPE_CHECKING:
    from ftlab.recipe import Recipe

# Fields by which a downloaded config could make transformers run code it brought along.
_CODE_FIELDS = ("auto_map", "_attn_implementation_internal")


def model_folder(name: str) -> str:
    """``"tiny"`` -> the folder of the shipped model; every other name unchanged."""
    return str(data_dir() / "tiny") if name == "tiny" else name


def load(
    name: str,
    *,
    quantization_bit: int | None = None,
    quantization_method: str = "bnb",
    quantization_type: str = "nf4",
    double_quantization: bool = True,
    rope_scaling: str | None = None,
    length: int | None = None,
    adapter: str | os.PathLike[str] | Sequence[str] | None = None,
    flash_attn: str = "auto",
    engine: str | fast.Unsloth = "auto",
    dtype: str = "auto",
    device: str = "auto",
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer; ``auto`` is what ``pick_device`` names.

    ``name`` is ``"tiny"`` (the shipped model), a folder, or a hub name such as
    ``"Qwen/Qwen3-0.6B"`` (``"modelscope:..."`` for ModelScope). ``adapter`` is a PEFT folder, or
    several: all but the last are merged into the model. ``rope_scaling`` (linear, dynamic, yarn,
    llama3) lets it read ``length`` tokens where it was trained on fewer. ``flash_attn`` is auto,
    sdpa, fa2 or disabled. ``engine`` unsloth wants ``import unsloth`` before all else; auto takes
    it where that was done.
    Raises ModelError when there is no such model or it would have to run code of its own,
    EnvironmentProblem for an engine or attention that this machine has not.

    >>> model, tokenizer = load("tiny")
    >>> model.config.model_type
    'qwen3'
    """
    how = attention(flash_attn, here(), packages())
    unsloth = fast.wanted(engine)
    path = _resolve(str(name))
    device = pick_device().value if device == "auto" else device
    chosen = getattr(torch, pick_dtype(device).value if dtype == "auto" else dtype)
    config = _call(AutoConfig.from_pretrained, path)
    if rope_scaling is not None:
        _scale_rope(config, rope_scaling, length)
    adapters = [adapter] if isinstance(adapter, str | os.PathLike) else list(adapter or [])
    for trained in adapters:
        rope.remembered(config, Path(trained))
    wanted = quantize.Quantization(
        quantization_bit, quantization_method, quantization_type, double_quantization
    )
    wanted.check(config, device, len(adapters))
    tokenizer = load_tokenizer(path)
    options = wanted.options(config, chosen, device)
    options |= {"attn_implementation": how} if how else {}
    kind = AutoModelForSequenceClassification if gives_scores(config) else AutoModelForCausalLM
    with quiet_loading():
        if unsloth is not None and kind is AutoModelForCausalLM:
            model = _call(unsloth.load, path, dtype=chosen, bits=quantization_bit, length=length)
        else:
            model = _call(kind.from_pretrained, path, config=config, dtype=chosen, **options)
        model = wanted.settle(model, device, str(cached_file(path, "config.json")))
    _check_vocabulary(name, model, tokenizer)
    return _with_adapters(model, adapters).eval(), tokenizer


def _check_vocabulary(name: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, the model only {rows} embeddings. "
            "Use the tokenizer that belongs to the model."
        )


def _with_adapters(model: Any, adapters: Sequence[str | os.PathLike[str]]) -> Any:
    """The model with the last adapter on it and the earlier ones merged into it."""
    if not adapters:
        return model
    from ftlab.adapters.folders import load_adapter  # it needs this module

    for earlier in adapters[:-1]:
        model = load_adapter(model, earlier)
        untie(model.get_base_model())
        model = model.merge_and_unload(safe_merge=True)
    return load_adapter(model, adapters[-1])


def _scale_rope(config: Any, kind: str, length: int | None) -> None:
    if note := rope.scale(config, kind, length):
        warnings.warn(note, stacklevel=3)


def gives_scores(config: Any) -> bool:
    """Whether a model with this configuration is a reward model: one number for a conversation."""
    return any("SequenceClassification" in name for name in config.architectures or [])


def with_score(model: Any) -> Any:
    """A reward model on the weights of a language model, which it shares: the transformer and a
    fresh linear head, ``score``, that reads one number off the last token."""
    config = copy.deepcopy(model.config)
    config.num_labels, config.pad_token_id = 1, model.generation_config.pad_token_id
    with quiet_loading(), torch.device("meta"):
        scored = AutoModelForSequenceClassification.from_config(config)
    config = scored.config
    config.architectures = [type(scored).__name__]
    for name in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "hf_quantizer",
                 "quantization_method"):  # fmt: skip
        if hasattr(model, name):
            setattr(scored, name, getattr(model, name))
    setattr(scored, model.base_model_prefix, getattr(model, model.base_model_prefix))
    head = torch.nn.Linear(config.hidden_size, 1, bias=False)
    torch.nn.init.normal_(head.weight, std=config.initializer_range)
    scored.score = head.to(model.device, model.dtype)
    return scored.eval()


def load_for(recipe: Recipe, **changes: Any) -> tuple[Any, PreTrainedTokenizerBase]:
    """``load`` the model that ``recipe`` names, as its keys say; ``changes`` win over them.

    Several adapters in ``adapter_name_or_path`` are separated by commas, as in LLaMA-Factory.

    >>> from ftlab.recipe import Recipe
    >>> model, tokenizer = load_for(Recipe(model_name_or_path="tiny"))
    """
    folders = (recipe.adapter_name_or_path or "").split(",")
    options = {
        "quantization_bit": recipe.quantization_bit,
        "quantization_method": recipe.quantization_method,
        "quantization_type": recipe.quantization_type,
        "double_quantization": recipe.double_quantization,
        "rope_scaling": recipe.rope_scaling,
        "length": recipe.cutoff_len,
        "flash_attn": recipe.flash_attn,
        "adapter": [folder.strip() for folder in folders if folder.strip()],
    }
    return load(recipe.model_name_or_path, **{**options, **changes})


def read_config(name: str) -> Any:
    """The configuration of a model that ``load`` knows, without its weights."""
    return _call(AutoConfig.from_pretrained, _resolve(str(name)))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that ``load`` knows, without its weights."""
    return read_tokenizer(_resolve(str(name)))


def read_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder that need not hold a model, such as an adapter's."""
    with quiet_loading():
        tokenizer = _call(AutoTokenizer.from_pretrained, path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No "Loading weights" bars and no library chatter inside the block."""
    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _resolve(name: str) -> str:
    """A local folder that has been looked at, or a hub name."""
    path = Path(model_folder(name)).expanduser()
    if path.is_dir():
        return str(_checked_folder(path))
    if name.startswith("modelscope:"):
        return _from_modelscope(name.removeprefix("modelscope:"))
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_like_path or path.exists():
        near = get_close_matches(name, ["tiny", *_folders_beside(path)], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ModelError(
            f"{name!r} is neither a model folder nor a hub name like 'Qwen/Qwen3-0.6B'.{hint}"
        )
    return name


def _folders_beside(path: Path) -> list[str]:
    return [str(p) for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []


def _checked_folder(path: Path) -> Path:
    config = path / "config.json"
    if not config.is_file():
        what = "an adapter: pass it as adapter=..." if _is_adapter(path) else "no model"
        raise ModelError(f"{path}: {what} (config.json is missing).")
    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{config}: not readable as JSON ({error}).") from error
    found = [field for field in _CODE_FIELDS if field in fields]
    if found:
        raise ModelError(
            f"{config}: field {found[0]!r} asks transformers to run code that is not its own. "
            "ftlab does not do that."
        )
    if not list(path.glob("*.safetensors")):
        raise ModelError(f"{path}: no *.safetensors weights here. ftlab reads no pickle files.")
    return path


def _is_adapter(path: Path) -> bool:
    return (path / "adapter_config.json").is_file()


def _from_modelscope(name: str) -> str:
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ModelError(f"modelscope:{name} needs the package: pip install modelscope") from error
    return str(snapshot_download(name))


def _call(loader: Any, path: str, **options: Any) -> Any:
    """Call a ``from_pretrained``; turn what it raises into one sentence."""
    try:
        return loader(path, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE") == "1" and not Path(path).is_dir()
        advice = (
            "It is not on this machine, and HF_HUB_OFFLINE=1 forbids downloading: call "
            "ftlab.setup(online=True) first."
            if offline
            else "Is it a complete model of a kind that transformers knows?"
        )
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ModelError(f"{path}: cannot be loaded. {advice} ({first})") from error
