"""Progress in the page, and Cancel."""

import comfy.model_management as memory
import comfy.utils


def throw_if_cancelled() -> None:
    """Raise the host's own exception when the user pressed Cancel."""
    memory.throw_exception_if_processing_interrupted()


def progress_bar(total: int):
    return comfy.utils.ProgressBar(total)


def progress_step():
    """Progress bar and cancel as an on_step(done, total) for library functions."""
    bar = progress_bar(100)

    def on_step(done: int, total: int) -> None:
        throw_if_cancelled()
        bar.update_absolute(100 * done // total, 100)

    return on_step


def bytes_as_progress(on_step, done: int, total: int):
    """An on_bytes(num_bytes) that tells on_step of bytes, from `done` up to at most `total`."""

    def on_bytes(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        on_step(min(done, total), max(total, 1))

    return on_bytes
