"""`compress costs`: what heads and neurons of a model cost, for `compress fit --speedup`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.hints import shell_word
from maskpack.exporters.options import CostOptions, CostRequest
from maskpack.formats import ConfigError
from maskpack.formats.writer import check_free, check_writable, write_bytes

if TYPE_CHECKING:
    from maskpack.exporters.bench.unit_costs import MeasuredCosts


@opt.with_options
def costs(
    model: Annotated[
        str,
        Argument(
            help="Folder, hub id or alias of a model, of which only the shape counts; or an artifact."
        ),
    ],
    out: Annotated[
        Path, Option("--out", "-o", help="File to write. [costs.json]", show_default=False)
    ] = Path("costs.json"),
    *,
    chosen: CostOptions,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Measure what attention heads and neurons cost on this machine, for --speedup of `compress fit`.

    Graphs with several numbers of them take turns; a linear model is fitted to their times and written down.

    Example: compress costs demo -o costs.json --threads 1
    """
    from maskpack.exporters.bench.unit_costs import unit_costs_of  # noqa: PLC0415 - imports torch

    if out.is_dir():
        raise ConfigError(f"`{out}` is a folder, and the costs are one file", "name a file")
    check_free(out)
    check_writable(out)
    request = CostRequest(model=model, **asdict(chosen))
    found = unit_costs_of(request, say=(lambda _: None) if quiet else render.words)
    write_bytes(out, found.costs.to_json().encode())
    if json:
        timed = [asdict(each) for each in found.timed]
        render.json({**asdict(found.costs), "timed": timed}, sort_keys=True)
    else:
        _show(found, out)


def _show(found: MeasuredCosts, out: Path) -> None:
    costs = found.costs
    parts = {
        "outside the layers": costs.outside,
        "an attention": costs.attention,
        "a head": costs.head,
        "a feed-forward layer": costs.feed_forward,
        "100 neurons": 100 * costs.neuron,
        "the whole graph": costs.whole,
    }
    render.table(
        f"{costs.shape}; {costs.compute}, {costs.batch} x {costs.length}, threads: {costs.threads}",
        ("part", "ms"),
        [(name, f"{ms:.4f}") for name, ms in parts.items()],
    )
    rows = []
    for each in found.timed:
        counts = list(each.counts(costs.shape))
        heads, neurons = sum(each.heads), sum(each.neurons)
        rows.append((f"{heads}", f"{neurons:,}", f"{each.ms:.3f}", f"{costs.ms(counts):.3f}"))
    render.table("graphs", ("heads", "neurons", "ms", "predicted"), rows)
    render.words(
        f"{out}: relative error {costs.residual:.1%}; next: compress fit MODEL --units heads,neurons --speedup 2 "
        f"--unit-costs {shell_word(out.as_posix())}"
    )
