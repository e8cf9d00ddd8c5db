"""E9: does a motion adapter learn from ten clips, and do several keep apart? Beside LoRAs of its size.

    python benchmarks/evidence/e9_motion_adapters.py           train what is missing, measure, write JSON
    python benchmarks/evidence/e9_motion_adapters.py --train   train what is missing, one after another
    python benchmarks/evidence/e9_motion_adapters.py --there   measure what is there, train nothing
    python benchmarks/evidence/e9_motion_adapters.py --sheet X   frames of every motion, of the truth and of both

Adapters lie in --folder, a file each with what its training cost, and beside them measured.json, so that a run that
was stopped goes on; remove that file to measure anew.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from clips_of_motion_adapters import MOTIONS, true_flow
from evidence_common import ROOT, finish, spread, verdict, write_json
from flows_of_motion_adapters import NOISES, PHOTOS, flows, latents, likeness, read_flows, truly_moved
from flows_of_motion_adapters import SIDE as PHOTO_SIDE
from pack.motion.adapters.miva import MIVA, MIVAConfig
from pack.motion.adapters.stack import AdapterStack, StackEntry
from pack.motion.io.adapters.adapter_file import load_adapter
from PIL import Image
from stacks_of_motion_adapters import at_once_rows, halves_rows, of_seeds, weight_rows
from trainings_of_motion_adapters import ABLATIONS, RANKS, SEEDS, STEPS, TUNED, TUNING_STEPS, Training, Trainings

SHIPPED = ROOT / "weights" / "motion_adapters"
CAMERA = "pan left"
PAIRS_AT_ONCE = (("sway", "swirl"), ("jelly", "pulse"))
PARTS = {"cfa": "cross-frame reads", "ca": "the prompt's network", "tsa": "LoRA along the frames"}
STACKED = (0,)  # training seeds of what is laid together
TURNS = 15  # alternating pairs of calls
LEARNT = ("miva", "lora")
NAMES = {"miva": "motion adapter", "lora": "LoRA"}
SHOWN = (0, 2, 4, 6)  # frames of the sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "demo" / "e9", help="of the trained adapters")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--there", action="store_true")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(Trainings(arguments.folder), arguments.there)
    if arguments.train:
        for training in bench.wanted():
            bench.likeness(training)
    elif arguments.sheet:
        write_sheet(bench, arguments.sheet)
    else:
        figures, rows = bench.measure()
        finish("e9_motion_adapters", figures, rows)


class Bench:
    """All that is trained and measured."""

    def __init__(self, trainings: Trainings, is_measuring_only: bool):
        self.trainings, self.is_measuring_only = trainings, is_measuring_only

    def wanted(self):
        """Every training, the most needed first; the rates are known once those of the tuning are made."""
        yield from self.trainings.tuning()
        yield from self.learning(SEEDS[:2])
        yield from (training for _, training in self.ablations())
        yield from self.learning(SEEDS[2:])

    def learning(self, seeds) -> list[Training]:
        return [Training(kind, motion, seed, STEPS, self.rate(kind))
                for seed in seeds for motion in MOTIONS for kind in LEARNT]  # fmt: skip

    def ablations(self) -> list[tuple[str, Training]]:
        return [(name, Training(kind, TUNED, 0, STEPS, self.rate("miva"))) for name, kind in ABLATIONS.items()]

    def rate(self, kind: str) -> float:
        """The learning rate at which a short training comes nearest to the truth."""
        tried = {row["learning rate"]: row["cosine"] for row in self.tuned if row["kind"] == kind}
        return max(tried, key=tried.get)

    @property
    def tuned(self) -> list[dict]:
        """A row a rate and kind."""
        return [{"kind": training.kind, "learning rate": training.rate, **self.likeness(training)}
                for training in self.trainings.tuning()]  # fmt: skip

    def kept(self, name: str, make):
        """What make() gives, as JSON keeps it, measured once."""
        path = self.trainings.folder / "measured.json"
        found = json.loads(path.read_text()) if path.is_file() else {}
        if name not in found:
            found[name] = make()
            write_json(path, found)
            print(name, found[name], flush=True)
        return found[name]

    def there(self, trainings) -> list[Training]:
        """Those that may be measured."""
        return [training for training in trainings
                if not self.is_measuring_only or self.trainings.path(training).is_file()]  # fmt: skip

    def likeness(
        self, training: Training, *, bucket: int | None = None, weight: float = 1.0, form: str = "delta",
        with_adapter_noise: bool = False,
    ) -> dict:
        """Means over photographs and noises, and what the training cost."""
        asked = {"bucket": bucket, "weight": weight, "form": form, "noise": with_adapter_noise}
        return self.kept(f"{training.name} {asked}", partial(self._likeness, training, asked))

    def _likeness(self, training: Training, asked: dict) -> dict:
        adapter, told = self.trainings.load(training)
        bucket = told["bucket"] if asked["bucket"] is None else asked["bucket"]
        made = latents(self.trainings.model, [(adapter, asked["weight"])], bucket, form=asked["form"],
                       with_adapter_noise=asked["noise"])  # fmt: skip
        found = likeness(*flows(self.trainings.model, made), true_flow(training.motion, cells=PHOTO_SIDE))
        means = {key: statistics.fmean(row[key] for row in found) for key in ("cosine", "amplitude")}
        return {**means, "loss": told["loss"], "seconds": told["seconds"], "parameters": told["parameters"]}

    def adapters(self, kind: str, seed: int) -> dict:
        """Of one seed, by motion."""
        return {training.motion: self.trainings.load(training)[0] for training in self.there(self.learning((seed,)))
                if training.kind == kind}  # fmt: skip

    def bucket(self) -> int:
        """At which stacks are sampled: the median of what the clips of all motions were measured at."""
        told = [self.trainings.load(training)[1]["bucket"] for training in self.there(self.learning((0,)))]
        return round(statistics.median(told))

    def measure(self) -> tuple[dict, list]:
        """Figures and rows."""
        model = self.trainings.model
        size = sum(value.numel() for value in model.dit.parameters())
        learnt = [{"kind": training.kind, "motion": training.motion, "seed": training.seed, **self.likeness(training)}
                  for training in self.there(self.learning(SEEDS))]  # fmt: skip
        bucket, stacks = self.bucket(), []
        for kind in LEARNT:
            for seed in STACKED:
                stacks += self.kept(f"stacks {kind} {seed}", partial(self.stacks, kind, seed, bucket))
        figures = {
            "photographs": len(PHOTOS), "sampling seeds": len(NOISES), "trainings": len(learnt),
            "steps a training": STEPS, "motion bucket of stacks": bucket,
            "parameters, motion adapter and LoRA, % of the model": [
                round(100 * max(row["parameters"] for row in learnt if row["kind"] == kind) / size, 2)
                for kind in LEARNT],
            "processor seconds a training, at most": verdict(max(row["seconds"] for row in learnt), high=300),
            "motions of four whose mean cosine is at least 0.9, motion adapter": verdict(
                sum(mean_of(learnt, "cosine", "miva", motion) >= 0.9 for motion in MOTIONS), low=3),
            **self.kept("exactness", partial(self.exactness, bucket)), **self.kept("cost", self.cost),
            "Learning (mean ± spread of the training seeds)": learning_table(learnt),
            "What the flow meter makes of the truth": self.kept("meter", meter_table),
            f"Learning rates, {TUNED}, {TUNING_STEPS} steps, one seed": [
                {"what": NAMES[row["kind"]], "learning rate": row["learning rate"], **shown(row)}
                for row in self.tuned],
            f"{TUNED} at every weight: amplitude": weight_table(stacks),
            "Two halves of a photograph (adapters of one training seed)": halves_table(stacks),
            "Two motions at once, and a motion beside a camera's: share kept": at_once_table(stacks),
            f"Parts, {TUNED}, one seed": self.ablation_table(),
            f"Noise, bucket and form, {TUNED}, one adapter": self.use_table(),
        }  # fmt: skip
        return figures, [*learnt, *({"of": "tuning", **row} for row in self.tuned), *stacks]

    def stacks(self, kind: str, seed: int, bucket: int) -> list[dict]:
        """Rows of all that is done with the adapters of one kind and seed."""
        model, adapters = self.trainings.model, self.adapters(kind, seed)
        told = {"kind": kind, "seed": seed}
        rows = [{"of": "halves", **told, **row} for row in halves_rows(model, adapters, bucket)]
        if TUNED in adapters:
            rows += [{"of": "weights", **told, **row} for row in weight_rows(model, adapters[TUNED], TUNED, bucket)]
        pairs = [pair for pair in PAIRS_AT_ONCE if all(motion in adapters for motion in pair)]
        if kind == "miva":
            adapters[CAMERA] = load_adapter(SHIPPED / "pan_left.safetensors", model.dit)
            pairs += [(motion, CAMERA) for motion in ("jelly", "swirl") if motion in adapters]
        return rows + [{"of": "at once", **told, **row} for row in at_once_rows(model, adapters, pairs, bucket)]

    def exactness(self, bucket: int) -> dict:
        """Weight 0 and the order of a stack, in bits."""
        model, adapters = self.trainings.model, self.adapters("miva", 0)
        first, second = list(adapters.values())[:2]
        base, none = latents(model, [], bucket, seeds=(0,)), latents(model, [(first, 0.0)], bucket, seeds=(0,))
        orders = [latents(model, [StackEntry(one, 0.7), StackEntry(other, 0.3)][::turn], bucket, seeds=(0,))
                  for one, other, turn in ((first, second, 1), (first, second, -1))]  # fmt: skip
        return {"largest difference of weight 0 to the model itself": verdict(float((base - none).abs().max()), high=0),
                "largest difference of two orders of a stack": verdict(
                    float((orders[0] - orders[1]).abs().max()), high=0)}  # fmt: skip

    @torch.no_grad()
    def cost(self) -> dict:
        """Processor time of a call with adapters over that without: median of alternating pairs."""
        model, rank = self.trainings.model, RANKS["miva"]
        found = list(self.adapters("miva", 0).values())
        stacks = {"two adapters": [StackEntry(one, 0.5) for one in found[:2]], "one adapter": [StackEntry(found[0])],
                  "one LoRA": [StackEntry(next(iter(self.adapters("lora", 0).values())))]}  # fmt: skip
        for part, name in PARTS.items():
            made = MIVA(model.dit, MIVAConfig(rank=rank, alpha=float(rank), parts=(part,)))
            stacks[f"{name} alone"] = [StackEntry(made)]
        latent = torch.randn(1, 200, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        said, ratios = replace(model.encode([""]), first_latent=latent[:, :, :1]), {name: [] for name in stacks}
        for _ in range(TURNS):
            for name, entries in stacks.items():
                without, held = (seconds(model, AdapterStack(tuple(part)), latent, said) for part in ((), entries))
                ratios[name].append(held / without)
        medians = {name: statistics.median(seen) for name, seen in ratios.items()}
        return {f"a call with {name}, over one without": verdict(value, high=1.2) if name == "one adapter"
                else round(value, 2) for name, value in medians.items()}  # fmt: skip

    def ablation_table(self) -> list[dict]:
        """A line a variant of MIVA."""
        whole = ("as it is", Training("miva", TUNED, 0, STEPS, self.rate("miva")))
        return [{"what": name, "parameters": row["parameters"], **shown(row), "loss, last steps": round(row["loss"], 3)}
                for name, row in ((name, self.likeness(training)) for name, training in (whole, *self.ablations())
                                  if self.there([training]))]  # fmt: skip

    def use_table(self) -> list[dict]:
        """A line a way to use one trained adapter."""
        whole = Training("miva", TUNED, 0, STEPS, self.rate("miva"))
        ways = {
            "as it is": {}, "noise of Algorithm 1": {"with_adapter_noise": True},
            "motion bucket 12, the model's default": {"bucket": 12}, "weight 0.5, form delta": {"weight": 0.5},
            "weight 0.5, form paper": {"weight": 0.5, "form": "paper"},
            "weight 0, form paper": {"weight": 0.0, "form": "paper"},
        }  # fmt: skip
        return [{"how": name, **shown(self.likeness(whole, **way))} for name, way in ways.items()]


def shown(row: dict) -> dict:
    """Cosine and amplitude for a table."""
    return {"cosine": round(row["cosine"], 3), "amplitude": round(row["amplitude"], 2)}


def seconds(model, stack: AdapterStack, latent, told) -> float:
    """Processor seconds of one call of the network."""
    with stack.during(model.dit):
        before = time.process_time()
        model.dit(latent, torch.tensor([900.0]), told)
        return time.process_time() - before


def mean_of(rows: list[dict], key: str, kind: str, motion: str) -> float:
    found = [row[key] for row in rows if (row["kind"], row["motion"]) == (kind, motion)]
    return statistics.fmean(found) if found else float("nan")


def learning_table(rows: list[dict]) -> list[dict]:
    lines = []
    for motion in MOTIONS:
        for kind in LEARNT:
            mine = [row for row in rows if (row["kind"], row["motion"]) == (kind, motion)]
            if mine:
                lines.append({
                    "motion": motion, "what": NAMES[kind], "seeds": len(mine),
                    "cosine": spread([row["cosine"] for row in mine]),
                    "amplitude": spread([row["amplitude"] for row in mine]),
                    "loss, last steps": spread([row["loss"] for row in mine]),
                    "processor seconds": spread([row["seconds"] for row in mine], 0),
                })  # fmt: skip
    return lines


def meter_table() -> list[dict]:
    lines = []
    for motion in MOTIONS:
        found = likeness(*read_flows(truly_moved(motion)), true_flow(motion, cells=PHOTO_SIDE))
        lines.append({"motion": motion, "cosine": spread([row["cosine"] for row in found]),
                      "amplitude": spread([row["amplitude"] for row in found])})  # fmt: skip
    return lines


def weight_table(rows: list[dict]) -> list[dict]:
    mine = [row for row in rows if row["of"] == "weights"]
    return [{"what": NAMES[kind], **{f"{weight:g}": of_seeds(mine, "amplitude", kind=kind, weight=weight)
                                     for weight in dict.fromkeys(row["weight"] for row in mine)}}
            for kind in LEARNT if any(row["kind"] == kind for row in mine)]  # fmt: skip


def halves_table(rows: list[dict]) -> list[dict]:
    mine, lines = [row for row in rows if row["of"] == "halves"], []
    for pair, motion in dict.fromkeys((row["pair"], row["motion"]) for row in mine):
        line = {"left and right": pair.replace(" | ", ", "), "motion": motion}
        for kind in LEARNT:
            for key, label in (("kept", "kept"), ("leak", "on the other half")):
                line[f"{NAMES[kind]}, {label}"] = of_seeds(mine, key, kind=kind, pair=pair, motion=motion)
        lines.append(line)
    return lines


def at_once_table(rows: list[dict]) -> list[dict]:
    mine, lines = [row for row in rows if row["of"] == "at once"], []
    for pair, weight in dict.fromkeys((row["pair"], row["weights"]) for row in mine):
        line = {"motions": pair, "each at weight": weight}
        for kind in LEARNT:
            for key in ("first kept", "second kept"):
                line[f"{NAMES[kind]}, {key}"] = of_seeds(mine, key, kind=kind, pair=pair, weights=weight)
        lines.append(line)
    return lines


def write_sheet(bench: Bench, path: Path) -> None:
    """A row a motion: four frames each of the truth, the motion adapter and the LoRA."""
    model, strips = bench.trainings.model, []
    for training in bench.there(bench.learning((0,))):
        adapter, told = bench.trainings.load(training)
        made = latents(model, [(adapter, 1.0)], told["bucket"], seeds=(0,))
        true = truly_moved(training.motion)[0]
        clip = model.codec.decode_onto(made[:1], true[0].movedim(-1, 0))[0].movedim(0, -1)
        strips.append(torch.cat([*(true[n] for n in SHOWN), *(clip[n] for n in SHOWN)], dim=1))
    sheet = (torch.cat(strips) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(sheet).save(path, quality=90)


if __name__ == "__main__":
    main()
