"""A run's folder is opened: for the same run only, and by one trainer at a time.

Imports no torch.
"""

from contextlib import ExitStack
from pathlib import Path

from micrograph.locks import lock_folder
from pretrain.atomic import write_atomically, writing_to
from pretrain.config import TrainConfig
from pretrain.inits import resolve_init
from pretrain.run_folder import RunPaths, read_run
from shards.cli import UserError
from shards.schema import Manifest, manifest_text
from shards.settings import dump_config

# Settings that do not change what an epoch computes, so a run may go on with others.
_FREE_ON_RESUME = frozenset(
    {
        "run_dir",
        "shards",  # the corpus hash is compared instead
        "cache_dir",
        "epochs",
        "patience",
        "threads",
        "loader_threads",
        "resident",  # the pixels are those of streaming
        "micro_batch_size",  # for a GPU with less memory; warned of
        "checkpoint_minutes",
        "rollback_limit",
        "record_ids",
        "wandb",
        "wandb_project",
    }
)


def check_same_run(paths: RunPaths, config: TrainConfig, manifest: Manifest) -> None:
    """Raise `UserError` when the folder holds a run that this one cannot go on from."""
    if not paths.config.exists():
        return
    before, corpus, _ = read_run(paths.folder)
    for name in TrainConfig.__dataclass_fields__:
        old, new = getattr(before, name), getattr(config, name)
        free = name in _FREE_ON_RESUME and not (
            name == "epochs"
            and config.lr_schedule == "cosine"  # the curve ends with the last epoch
        )
        if old != new and not free:
            raise UserError(
                f"{paths.folder} holds a run with {name} {old}, not {new}; "
                "choose another --run-dir, or delete that folder"
            )
    if corpus.corpus_hash != manifest.corpus_hash:
        raise UserError(
            f"{paths.folder} was trained on other shards than {config.shards} now holds; "
            "choose another --run-dir"
        )


def lock(file: Path) -> ExitStack:
    """Lock a run's folder until the answer is closed or this process ends. Raises `UserError`."""
    hint = "wait for it, or end it (a killed launcher can leave its trainer alive)"
    return lock_folder(file.parent, file.name, hint=hint)


def write_description(paths: RunPaths, config: TrainConfig, manifest: Manifest) -> None:
    """Write what makes the folder a run's. Raises `UserError` when the disk takes it not."""
    with writing_to(paths.folder):
        # The manifest first: where config.yaml is, the rest is too.
        write_atomically(paths.manifest, manifest_text(manifest).encode())
        if (card := resolve_init(config.init).card_path) and card.is_file():
            write_atomically(paths.init_card, card.read_bytes())
        write_atomically(paths.config, dump_config(config).encode())
