"""Every operator beside its rivals, then one block and one step of the network. Writes JSON where there is a card.

Without a card it runs the same code at toy sizes in Triton's CPU interpreter, to show that it runs; no time is printed.

    python benchmarks/kernels.py                        all parts; each can be asked for alone:
    python benchmarks/kernels.py --part operators       operators, training, crossover, compile, step
    python benchmarks/kernels.py --flash-bla FOLDER     also a rival whose source lies in FOLDER
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

ON_CARD = torch.cuda.is_available()
if not ON_CARD:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a kernel is decorated

from builtin_common import RESULTS  # noqa: E402
from kernels_cases_common import Case, crossover_cases, operator_cases, outside  # noqa: E402
from kernels_common import CONFIGS, eager_block, eager_step  # noqa: E402
from kernels_timing_common import Clock, card_rates, facts, poisoned, relative_error  # noqa: E402
from pack.motion.io.files.atomic import write_json  # noqa: E402
from pack.motion.models.conditions import Conditions  # noqa: E402
from pack.motion.models.linear_video.config import LinearVideoDiTConfig  # noqa: E402
from pack.motion.models.linear_video.network import LinearVideoDiT  # noqa: E402

PARTS = ("operators", "training", "crossover", "compile", "step")
NOT_MEASURED = "not measured on a GPU yet"
COMPILERS = {"torch.compile": None, "torch.compile max-autotune": "max-autotune-no-cudagraphs"}
TOY_STEPS = {"toy": (4, 2, 4, 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part (may be repeated)")
    parser.add_argument("--runs", type=int, default=50 if ON_CARD else 1, help="timed runs of each rival")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--steps", choices=tuple(CONFIGS), action="append", help="only these configurations of a step")
    parser.add_argument("--flash-bla", help="folder that holds the package flash_bla")
    parser.add_argument("--lite-mla", help="folder that holds triton_lite_mla_kernels")
    parser.add_argument("--commit", help="what to write down as commit where there is no git")
    parser.add_argument("--out", type=Path, help="folder of the JSON files (default with a card: benchmarks/results)")
    arguments = parser.parse_args()
    device = torch.device("cuda" if ON_CARD else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    clock, dtype = Clock(device, arguments.runs), getattr(torch, arguments.dtype)
    about, rates = facts(device, arguments.commit), card_rates(clock)
    bench = Bench(clock, rates["copy_gb_s"])
    others = outside(arguments.flash_bla, arguments.lite_mla)
    for part in arguments.part or PARTS:
        started = time.perf_counter()
        rows = {
            "operators": lambda: [row for case in operator_cases(device, dtype, others) for row in bench.forward(case)],
            "training": lambda: [row for case in operator_cases(device, dtype, {}) for row in bench.training(case)],
            "crossover": lambda: [row for case in crossover_cases(device, dtype) for row in bench.forward(case)],
            "compile": lambda: [row for case in operator_cases(device, dtype, {}) if case.flagship
                                for row in bench.compiled(case)],
            "step": lambda: step_rows(bench, dtype, arguments.steps),
        }[part]()  # fmt: skip
        report(part, rows, {**about, **rates, "dtype": arguments.dtype}, arguments.out)
        print(f"{part}: {len(rows)} rows in {time.perf_counter() - started:.0f} s")
    if not ON_CARD:
        print(f"Speed: {NOT_MEASURED}; these runs show that every part runs and how exact it is.")


class Bench:
    """Turns cases into rows: no row without its error beside its time."""

    def __init__(self, clock: Clock, copy_gb_s: float):
        self.clock, self.copy_gb_s = clock, copy_gb_s

    def forward(self, case: Case, rivals: dict[str, Callable] | None = None) -> list[dict]:
        """Cold, hot and as a graph, without gradients."""
        with torch.no_grad():
            inputs, truth = self._inputs(case)
            calls = {name: self._bind(call, inputs) for name, call in (rivals or case.rivals).items()}
            return self._measure(case, calls, truth, "forward")

    def training(self, case: Case) -> list[dict]:
        """Forward and backward through all tensors; the error is that of the first gradient."""
        inputs, _ = self._inputs(case)
        inputs = tuple(x.detach().requires_grad_() for x in inputs)
        wide = tuple(x.detach().double().requires_grad_() for x in inputs)
        seeds = {}

        def gradients(call, given):
            outs = call(*given)
            outs = outs if isinstance(outs, tuple) else (outs,)
            for i, out in enumerate(outs):
                if i not in seeds:
                    generator = torch.Generator(out.device).manual_seed(1 + i)
                    seeds[i] = torch.randn(out.shape, generator=generator, device=out.device).to(inputs[0].dtype)
            return torch.autograd.grad(outs, given, [seeds[i].to(out.dtype) for i, out in enumerate(outs)])[0]

        names = [name for name in ("ours", "torch backend", "released eager") if name in case.rivals]
        truth = gradients(case.rivals["torch backend"], wide)  # float64 in, float64 sums
        calls = {name: (lambda call=case.rivals[name]: gradients(call, inputs)) for name in names}
        whole = Case(**{**vars(case), "part": lambda out: out})
        return self._measure(whole, calls, truth, "forward and backward", graphs=False)

    def compiled(self, case: Case) -> list[dict]:
        """torch.compile of the released form beside ours."""
        rivals = {"ours": case.rivals["ours"]}
        for name, mode in COMPILERS.items():
            torch._dynamo.reset()
            rivals[name] = torch.compile(case.rivals["released eager"], mode=mode, dynamic=False)
            if not ON_CARD:
                break
        return self.forward(case, rivals)

    def _inputs(self, case: Case):
        inputs = case.make()
        return inputs, case.truth(*inputs)

    def _bind(self, call: Callable, inputs: tuple) -> Callable:
        return lambda: call(*inputs)

    def _measure(self, case: Case, calls: dict, truth, direction: str, *, graphs: bool = True) -> list[dict]:
        head = {"operator": case.operator, "shape": case.shape, "direction": direction, **case.extra}
        rows, usable = {}, {}
        for name, call in calls.items():
            rows[name] = {**head, "rival": name}
            try:
                out, seconds = self.clock.first(lambda call=call: poisoned(call))
                comparable = name != "softmax"  # another function: only its time compares
                rows[name].update(
                    first_call_s=seconds, relative_error=relative_error(case.part(out), truth) if comparable else None,
                    peak_mb=(self.clock.peak_bytes(call) or 0) / 1e6 or None, launches=self.clock.launches(call),
                )  # fmt: skip
                del out
                usable[name] = call
            except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
                rows[name]["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        for mode, spread in self._times(usable, graphs).items():
            for name, took in spread.items():
                rows[name][mode] = {**took, **self._rates(case, took["ms"], direction)}
        return list(rows.values())

    def _times(self, calls: dict, graphs: bool) -> dict[str, dict]:
        modes = ("cold", "hot") if ON_CARD else ("hot",)
        times = {mode: self.clock.interleaved(calls, cold=mode == "cold") for mode in modes}
        if ON_CARD and graphs:
            replays = {}
            for name, call in calls.items():
                try:
                    replays[name] = self.clock.graph(call)
                except RuntimeError:
                    continue  # a rival that cannot be captured has no such column
            times["graph"] = self.clock.interleaved(replays, cold=True)
        return times

    def _rates(self, case: Case, ms: float, direction: str) -> dict:
        """Bandwidth over the least bytes, and the share of what a copy reaches; forward only."""
        if direction != "forward" or not ON_CARD or not case.least_bytes:
            return {}
        gb_s = case.least_bytes / ms / 1e6
        return {"gb_s": gb_s, "of_copy": gb_s / self.copy_gb_s}


def step_rows(bench: Bench, dtype: torch.dtype, chosen: list[str] | None) -> list[dict]:
    """One block and one step at the five configurations: ours, torch, released eager, and compiled on a card."""
    rows = []
    for name, size in (CONFIGS if ON_CARD else TOY_STEPS).items():
        if not chosen or name in chosen:
            rows += one_step(bench, name, size, dtype)
    return rows


@torch.no_grad()
def one_step(bench: Bench, name: str, size: tuple[int, ...], dtype: torch.dtype) -> list[dict]:
    """Rows of one configuration; the step's truth is the same network in float64."""
    channels, patch, height, width = size
    device, frames = bench.clock.device, 16 if ON_CARD else 3
    sizes = {} if ON_CARD else {"num_layers": 2, "num_attention_heads": 2, "num_cross_attention_heads": 2,
                                "caption_channels": 24}  # fmt: skip
    config = LinearVideoDiTConfig(in_channels=channels, patch_size=patch, **sizes)
    torch.manual_seed(0)
    models = {"ours": LinearVideoDiT(config, kernels="triton", dtype=dtype, device=device).eval()}
    weights = models["ours"].state_dict()
    for kind, wide in (("torch backend", False), ("truth", True)):
        models[kind] = LinearVideoDiT(config, kernels="torch", dtype=dtype, device="meta").eval()
        models[kind].load_state_dict({key: value.double() if wide else value for key, value in weights.items()},
                                     assign=True)  # fmt: skip
    generator = torch.Generator(device).manual_seed(1)
    latents = torch.randn((2, channels, frames, height, width), generator=generator, device=device).to(dtype)
    context = torch.randn((2, 300 if ON_CARD else 7, config.caption_channels), generator=generator, device=device)
    context, timestep = context.to(dtype), torch.full((2,), 500.0, device=device)
    truth_model, seen = models.pop("truth"), {}
    truth = truth_model(latents.double(), timestep.double(), Conditions(context.double()))
    block_truth = capture(truth_model, 0, latents.double(), timestep.double(), Conditions(context.double()))()
    del truth_model
    eager = models["ours"]
    told = Conditions(context)
    calls = {kind: (lambda model=model: model(latents, timestep, told)) for kind, model in models.items()}
    calls["released eager"] = lambda: eager_step(eager, latents, timestep, context)
    blocks = {kind: capture(model, 0, latents, timestep, told) for kind, model in models.items()}

    def keep(block, *arguments):
        seen.setdefault("block", (block, *arguments))
        return eager_block(block, *arguments)

    eager_step(eager, latents, timestep, context, run=keep)
    blocks["released eager"] = lambda: eager_block(*seen["block"])
    if ON_CARD:
        for kind, mode in COMPILERS.items():
            torch._dynamo.reset()
            run = torch.compile(eager_block, mode=mode, dynamic=False)
            calls[kind] = lambda run=run: eager_step(eager, latents, timestep, context, run=run)
            blocks[kind] = lambda run=run: run(*seen["block"])
    shape = f"{name}, {frames} frames"
    block = Case("block", shape, lambda: (), {}, lambda: None, lambda out: out, 0)
    step = Case("step", shape, lambda: (), {}, lambda: None, lambda out: out, 0)
    return bench._measure(block, blocks, block_truth, "forward") + bench._measure(step, calls, truth, "forward")


def capture(model, index: int, *inputs) -> Callable:
    """The call of one block on the hidden states it sees in a whole step."""
    found = {}

    def run_block(at, call, hidden_states):
        if at == index:
            found["call"] = lambda: call(hidden_states)
        return call(hidden_states)

    model(*inputs, run_block=run_block)
    return found["call"]


def report(part: str, rows: list[dict], about: dict, folder: Path | None) -> None:
    """Print a table and write the rows; no time is printed without a card."""
    for row in rows:
        error = f"error {row['relative_error']:.2e}" if row.get("relative_error") is not None else ""
        line = f"{row['operator']} [{row['shape']}] {row['direction']}, {row['rival']}: {row.get('error', error)}"
        if ON_CARD and "error" not in row:
            base = next((other for other in rows if other["rival"] == "ours" and other["shape"] == row["shape"]
                         and other["operator"] == row["operator"] and "cold" in other), None)  # fmt: skip
            took = ", ".join(f"{mode} {row[mode]['ms']:.3f} ms" for mode in ("cold", "hot", "graph") if mode in row)
            share = f", {row['cold']['of_copy']:.0%} of copy" if "of_copy" in row["cold"] else ""
            ratio = f", {row['cold']['ms'] / base['cold']['ms']:.2f} of ours" if base else ""
            line += f", {took}{share}{ratio}"
        print(line)
    folder = folder or (RESULTS if ON_CARD else None)
    if folder:
        if not ON_CARD:
            rows = [{key: value for key, value in row.items() if key not in ("cold", "hot", "first_call_s")}
                    for row in rows]  # fmt: skip
            about = {key: value for key, value in about.items() if not key.endswith(("gb_s", "tflop_s"))}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"kernels_{part}.json", {"facts": about, "rows": rows})


if __name__ == "__main__":
    main()
