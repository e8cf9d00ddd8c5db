"""The run that the training scripts of the built-in models share: progress lines, states, a file at every state."""

from collections.abc import Callable

from ..motion.training.trainer import Trainer


def run_training(task, config, arguments, write: Callable, *, report_every: int) -> None:
    """Train in arguments.folder, or go on there where arguments.resume says so. write(trainer) at every state."""
    losses = []

    def report(step) -> None:
        losses.append(step.loss)
        if step.step % report_every == 0:
            mean, drawing = sum(losses) / len(losses), step.data_seconds / step.seconds
            print(f"step {step.step}/{step.num_steps} loss {mean:.4f} norm {step.gradient_norm:.2f} "
                  f"{step.seconds:.2f} s a step, drawing {drawing:.0%}", flush=True)
            losses.clear()

    def export(saved) -> None:
        if saved.path:
            write(trainer)

    arguments.folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(task, config, folder=arguments.folder, resume="latest" if arguments.resume else None,
                      allow_changes=arguments.changed, on_step=report, on_save=export)
    trainer.run()


def recipe_changes(recipe: type, given: list[str]) -> dict:
    """Settings "name=value" as values of the types the recipe's defaults have."""
    return {name: type(getattr(recipe, name))(value) for name, value in (change.split("=", 1) for change in given)}
