"""The `micrograph` command: a map of all programs, and one way to run them.

    micrograph --help
    micrograph write --source my_images --out data/shards      as python -m shards.write ...

Imports no torch: a program is imported when it is run.
"""

import runpy
import sys
from collections.abc import Sequence

from micrograph.cli import UserError, call_program, program
from micrograph.settings import nearest_hint

# Stage -> command -> (module, what it does). In the order of use.
PROGRAMS: dict[str, dict[str, tuple[str, str]]] = {
    "Make shards of micrographs": {
        "synthetic": ("shards.synthetic", "draw a corpus of synthetic micrographs"),
        "fetch": ("shards.fetch", "download a public dataset"),
        "write": ("shards.write", "clean, split and write micrographs as tar shards"),
        "verify": ("shards.verify", "check every byte of a shard set"),
        "stats": ("shards.stats", "print what is in a shard set"),
        "report": ("shards.report", "write a page that shows a shard set"),
    },
    "Pre-train an encoder": {
        "archs": ("pretrain.archs", "list the encoders that can be trained"),
        "staging": ("pretrain.staging", "copy a shard set from a URL to the local cache"),
        "preview": ("pretrain.preview", "draw a contact sheet of the augmentations"),
        "doctor": ("pretrain.doctor", "check whether a training would run on this machine"),
        "train": ("pretrain.train", "pre-train an encoder (several GPUs: accelerate launch)"),
        "summary": ("pretrain.summary", "show or compare training runs"),
        "export": ("pretrain.export", "export the encoder of a run for smp and timm"),
    },
    "Share encoders and segmenters": {
        "import-nasa": ("pretrain.import_nasa", "turn NASA's published encoders into exports"),
        "publish": ("pretrain.publish", "publish an encoder or a segmenter to a registry"),
        "registry": ("pretrain.registry", "list, show, pull, verify and compare what is published"),
    },
    "Segment micrographs": {
        "check": ("downstream.check", "check labelled images and propose their classes"),
        "recommend": ("downstream.recommend", "compare encoders on a few labelled images"),
        "segment": ("downstream.segment", "fine-tune a segmenter"),
        "calibrate": ("downstream.calibrate", "measure how far a segmenter can be trusted"),
        "predict": ("downstream.predict", "predict masks of images"),
        "measure": ("downstream.measure", "measure phase fractions, regions and layers of masks"),
        "explain": ("downstream.explain", "draw Grad-CAM heat maps"),
        "export-segmenter": ("downstream.export", "write a segmenter as ONNX or torch.export"),
        "demo": ("downstream.demo", "run the whole path on a small corpus"),
    },
    "Adapt a segmenter to other micrographs": {
        "shift-report": ("downstream.shift_report", "report how far a domain is from the source"),
        "adapt": ("downstream.adapt", "adapt a segmenter to unlabelled images"),
        "bainite": ("downstream.bainite", "draw synthetic bainite in four etchings"),
        "label-shift": ("downstream.label_shift", "choose training sets of two phase fractions"),
    },
    "Run many trainings": {
        "launch-grid": ("launch.grid", "print the tasks of a grid"),
        "launch-estimate": ("launch.estimate", "estimate the hours that a grid will take"),
        "launch-local": ("launch.local", "run a grid on this machine"),
        "launch-slurm": ("launch.slurm", "submit a grid to SLURM"),
        "launch-status": ("launch.status", "show the state of a grid's tasks"),
        "launch-collect": ("launch.collect", "gather the results of a grid"),
        "study": ("downstream.study", "make paper A's tables and figures of a folder of runs"),
        "adapt-study": ("downstream.adapt_study", "make paper B's tables and figures"),
    },
}


@program
def main(argv: Sequence[str] | None = None) -> None:
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(program_map())
        return
    modules = {name: module for group in PROGRAMS.values() for name, (module, _) in group.items()}
    if name not in modules:
        raise UserError(f"unknown program {name!r}; {nearest_hint(name, modules)}")
    call_program(f"micrograph {name}")
    sys.argv[1:] = rest
    # As `python -m` does it: worker processes find the program's module again by its name.
    runpy.run_module(modules[name], run_name="__main__", alter_sys=True)


def program_map() -> str:
    """All programs by stage, a line each."""
    lines = ["usage: micrograph PROGRAM [options]"]
    for stage, programs in PROGRAMS.items():
        lines += ["", f"{stage}:"]
        lines += [f"  {name:17} {summary}" for name, (_, summary) in programs.items()]
    lines += ["", "micrograph PROGRAM --help shows its settings."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
