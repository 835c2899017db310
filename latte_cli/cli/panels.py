"""The headings under which the help of a command with many options lists them, in the order of a reader."""

from collections.abc import Mapping

_OF_SETTINGS = "Device and settings"

PANELS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "estimate": {
        "Model": (
            *("--shape", "--batch-axis", "--freeze", "--restore-norms", "--compare-weights"),
            "--allow-unknown",
        ),
        _OF_SETTINGS: (
            *("--device", "--store", "--precision", "--layout", "--threads", "--compile", "--cuda-graph"),
            *("--gpus", "--link", "--data-parallel"),
        ),
        "Measuring first": ("--measure", "--no-measure"),
        "Algorithms": ("--strategy", "--estimator", "--workspace-limit", "--measure-below"),
        "Training step": (
            *("--optimizer", "--loss", "--accumulate", "--clip-norm", "--ema", "--grad-scaler", "--zero-grad"),
            "--log-every",
        ),
        "Memory and batches": (
            *("--batch-size", "--effective-batch", "--fits", "--memory-limit", "--checkpoint"),
            *("--mmap-threshold", "--memory"),
        ),
        "Federation and schedule": (
            *("--samples", "--epochs", "--local-steps", "--upload", "--download", "--loading-rate", "--prices"),
        ),
        "Output and limits": (
            *("--format", "--all", "--picture", "--force", "--fail-above", "--baseline", "--max-regression"),
            "--annotate",
        ),
    },
    "compare": {
        "Models": ("--batch-size", "--shape", "--batch-axis", "--freeze", "--allow-unknown"),
        _OF_SETTINGS: ("--device", "--store", "--precision", "--layout", "--threads", "--compile", "--cuda-graph"),
        "Algorithms": ("--strategy", "--estimator", "--workspace-limit", "--memory-limit", "--checkpoint"),
        "Training step": ("--optimizer", "--loss", "--accumulate", "--fits"),
        "Training and cost": ("--samples", "--epochs", "--local-steps", "--prices"),
        "Output and limits": ("--format", "--fail-above", "--max-regression", "--annotate"),
    },
    "profile": {
        "What is measured": ("--suite", "--phases", "--configs", "--seed", "--compile", "--links", "--loader"),
        "Models": ("--batch-size", "--shape", "--batch-axis", "--widths", "--plan", "--optimizer"),
        _OF_SETTINGS: ("--device", "--name", "--precision", "--layout", "--threads"),
        "Budget": ("--budget", "--passes", "--memory-share", "--require-complete"),
        "Output": ("--store", "--dry-run", "--format"),
    },
    "allocate": {
        "Fleet and rounds": (
            *("--fleet", "--devices", "--after", "--round-duration", "--target-capacity", "--floor", "--max-idle"),
        ),
        "Sub-models": ("--widths", "--depths", "--fine", "--objective", "--channels", "--seed"),
        "Estimates": ("--store", "--strategy", "--optimizer", "--shape", "--batch-axis", "--allow-unknown"),
        "Output": ("--curve", "--output", "--materialise", "--picture", "--force", "--format"),
    },
    "report": {
        "Model": ("--batch-size", "--shape", "--batch-axis", "--allow-unknown"),
        _OF_SETTINGS: ("--device", "--store", "--precision", "--layout", "--threads", "--strategy", "--optimizer"),
        "Training and cost": ("--samples", "--epochs", "--prices"),
        "Output": ("--output", "--plan", "--figures", "--force"),
    },
}
"""By command: options under their headings; the others are listed last, as plain options."""
