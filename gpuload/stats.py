"""What a loader has done so far, as one frozen value."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """A snapshot; counters run from the loader's making."""

    batches_delivered: int = 0
    samples_delivered: int = 0
    frames_delivered: int = 0
    """Video slots handed out."""
    batches_skipped: int = 0
    """Left out for a damaged sample (``on_error="skip"``)."""
    frames_decoded: int = 0
    """Pictures that a codec produced, wanted or not."""
    decoded_by: dict[str, int] = field(default_factory=dict)
    """The same by what decoded them: ``{"torchcodec on cuda:0": 900, "pyav on cpu": 100}``."""
    frames_distinct: int = 0
    """Distinct pictures of the batches that came, or failed, or were left out; per epoch."""
    amplification: float = 0.0
    """frames_decoded / frames_distinct; in the middle of an epoch what was decoded ahead is in it."""
    bytes_read: int = 0
    wait_s: float = 0.0
    """Time that the iterator's ``next()`` waited."""
    mixing: float = 0.0
    """Mean distinct episodes in a batch over what a uniform permutation would give."""
    kept_bytes: int = 0
    """Most bytes of decoded pictures that waited for later batches."""
    workers_restarted: int = 0
    backends: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Video key -> (backend, why this one)."""
