"""The results as Markdown: docs/benchmarks.md."""

import os
import platform
import statistics
import time

MICRO_COLUMNS = [
    ("c-same-1", "same, 1 thread"),
    ("c-same-2", "same, 2 threads"),
    ("c-rbp-1", "same, rbp changes"),
    ("c-held-1", "same, blocks held"),
    ("c-changing-1", "changing, 1 thread"),
    ("c-changing-2", "changing, 2 threads"),
    ("c-new-1", "new, 1 thread"),
    ("c-new-2", "new, 2 threads"),
    ("c-dormant", "dormant"),
]

ABOUT_PAGE = """\
Written by `make bench`: every tool and avleak side by side in one run, a round of all tools at a time, in random order.
Run it to have the figures of your machine; the ratios are what can be compared.
"""
# From here on the clock says more of the others than of the tools.
BUSY_SHARE = 0.1
ABOUT_BUSY = """\
**This machine was busy with other work meanwhile: times by the clock, and what hangs on them (an analyzer that gets no
processor in time), are not to be trusted. CPU times are better. Run it again on a quiet machine.**
"""
ABOUT_FIGURES = """\
Ratios are medians of the ratios to the plain run of the same round. CPU is of all processes, analyzers included. Memory
is the largest VmHWM of the process under test, and of the largest process beside it. Every tool unwinds each
allocation, nothing is sampled. A tool that is slow runs fewer rounds.
"""
ABOUT_LOST = """\
By Valgrind's definitions 5 frames are definitely lost, with 15 blocks that only they lead to, and one frame is possibly
lost, with 3. Each was made by libavutil, called 20 functions below `main` or the function that `main` calls.
"""
ABOUT_MICRO = """\
Pairs of malloc and free of 64 bytes at the bottom of 20 functions without frame pointers, in a process that made a
frame before (avleak is armed). *Same*: one stack. *rbp changes*: one stack, but the callers use rbp for a counter, as
code without frame pointers may. *Changing*: one of 8,192 random ways through functions of different frame sizes. *New*:
every stack is one that never came before (both with a changing rbp). *Held*: a block is freed 4,096 pairs later.
*Dormant*: no libav in the process.
"""


def table(header, rows, right=()):
    """A Markdown table; `right` names the columns that are aligned right."""
    rule = ["---:" if name in right else "---" for name in header]
    lines = ["| " + " | ".join(row) + " |" for row in [header, rule, *rows]]
    return "\n".join(lines) + "\n"


def _number(value, digits=2):
    return "—" if value is None else f"{value:,.{digits}f}"


def _ratio(values, spread=False):
    if not values:
        return "—"
    text = _number(statistics.median(values), 2 if statistics.median(values) < 10 else 1)
    return f"{text} ({values[0]:.2f}–{values[-1]:.2f})" if spread and len(values) > 1 else text


def _mib(kib):
    return "—" if not kib else _number(kib / 1024, 1 if kib < 100 * 1024 else 0)


def machine():
    """One line on the machine that this runs on."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return f"{model}, {os.cpu_count()} processors, {memory:.0f} GiB; {name}, kernel {platform.release()}"


def _wall(run):
    return run.wall


def _cpu(run):
    return run.cpu


def _target(run):
    return run.target_kib


def _other(run):
    return run.other_kib


def _exits(cell):
    return "/".join(str(code) for code in sorted({run.exit for run in cell.runs.values()}))


def _says(cell):
    outcome = cell.outcome
    if not outcome:
        return "—"
    seen = f"{outcome.seen:,} allocations; " if outcome.seen else ""
    return seen + outcome.says


def process_table(results, workload, tools):
    """Wall, CPU, memory and outcome of every tool over one workload."""
    rows = []
    for tool in tools:
        cell = results.cell(workload.id, tool.id)
        if not cell.runs:
            rows.append([tool.title] + ["—"] * 7 + [cell.failure or "not run", "0"])
            continue
        rows.append(
            [
                tool.title,
                _number(cell.median(_wall)),
                _ratio(results.ratios(workload.id, tool.id, _wall), spread=tool.id != "plain"),
                _number(cell.median(_cpu)),
                _ratio(results.ratios(workload.id, tool.id, _cpu)),
                _mib(cell.median(_target)),
                _ratio(results.ratios(workload.id, tool.id, _target)),
                _mib(cell.median(_other)),
                f"exit {_exits(cell)}"
                + (f"; {_says(cell)}" if tool.id != "plain" else "")
                + (f" ({cell.failure})" if cell.failure else ""),
                str(len(cell.runs)),
            ]
        )
    header = [
        "tool",
        "wall s",
        "ratio (range)",
        "CPU s",
        "ratio",
        "target MiB",
        "ratio",
        "beside it MiB",
        "what it gave",
        "runs",
    ]
    return table(
        header, rows, right=("wall s", "ratio (range)", "CPU s", "ratio", "target MiB", "beside it MiB", "runs")
    )


def _micro_value(results, workload, tool, of):
    cell = results.cell(workload.id, tool.id)
    if not cell.runs:
        return cell.failure or "—"
    return of(cell)


def micro_tables(results, workloads, tools):
    """The tables of the micro-benchmark: time added, CPU time of everything, memory."""
    columns = [(workload, dict(MICRO_COLUMNS)[workload.id]) for workload in workloads if workload.per_pair]
    titles = [title for _, title in columns]

    def rows(value):
        return [[tool.title] + [value(workload, tool) for workload, _ in columns] for tool in tools]

    def added(key):
        def value(workload, tool):
            if tool.id == "plain":

                def own(cell):
                    return f"({_number(cell.median(lambda run: run.program[key]) / 2, 0)})"

                return _micro_value(results, workload, tool, own)
            change = results.added(workload.id, tool.id, key)
            bar = workload.bars.get("call") if tool.id == "avleak" else None
            text = _number(change, 1 if change is not None and abs(change) < 100 else 0)
            outcome = results.cell(workload.id, tool.id).outcome
            text += f" (bar {bar})" if bar else ""
            text += f", {outcome.dropped:,} dropped" if outcome and outcome.dropped else ""
            text += f", {outcome.unseen:,} not accounted for" if outcome and outcome.unseen else ""
            return _micro_value(results, workload, tool, lambda _cell: text)

        return value

    def everything(workload, tool):
        return _micro_value(
            results,
            workload,
            tool,
            lambda cell: _number(cell.median(lambda run: run.cpu * 1e9 / run.program["all_pairs"] / 2), 0),
        )

    def memory(workload, tool):
        def both(cell):
            other = cell.median(_other)
            return _mib(cell.median(lambda run: run.program["peak_kib"])) + (f" + {_mib(other)}" if other else "")

        return _micro_value(results, workload, tool, both)

    return "\n".join(
        [
            "Nanoseconds that each malloc or free takes longer than plain, by the clock (plain: the program's own time a call):\n",
            table(["tool", *titles], rows(added("wall_ns")), right=titles),
            "The same by CPU time of the program's threads (waiting for an analyzer is not in it):\n",
            table(["tool", *titles], rows(added("cpu_ns")), right=titles),
            "CPU time of all processes, start and end included, in nanoseconds a malloc or free:\n",
            table(["tool", *titles], rows(everything), right=titles),
            "Peak memory, MiB: of the program, + of the largest process beside it:\n",
            table(["tool", *titles], rows(memory), right=titles),
        ]
    )


BARS = {
    "wall": "wall, ratio",
    "cpu": "total CPU, ratio",
    "call": "added a malloc or free, ns",
    "check": "check at the end, s",
    "stopped": "of it with the process stopped, s",
}


def _measured(results, workload, kind, tool):
    """What a bar of that kind is compared with; None where it was not measured."""
    if kind in ("wall", "cpu"):
        ratios = results.ratios(workload.id, tool, _wall if kind == "wall" else _cpu)
        return statistics.median(ratios) if ratios else None
    if kind == "call":
        return results.added(workload.id, tool, "wall_ns")
    if tool != "avleak":
        return None
    return results.cell(workload.id, tool).median(lambda run: run.program[f"{kind}_s"])


def bar_rows(results, workloads):
    """(workload, what, bar, avleak, heaptrack, met) of every bar that was measured."""
    rows = []
    for workload in workloads:
        name = f"({workload.id.split('-')[0]}) {workload.title}"
        for kind, bar in workload.bars.items():
            ours, theirs = (_measured(results, workload, kind, tool) for tool in ("avleak", "heaptrack"))
            met = "—" if ours is None else "yes" if ours <= bar else "**no**"
            rows.append([name, BARS[kind], f"≤ {bar:g}", _number(ours), _number(theirs), met])
    return rows


def depth_table(results, workload, tools):
    """What each tool says of the same lost frames: classes, stack depth, exit status."""
    rows = []
    for tool in tools:
        if tool.id == "plain":
            continue
        cell = results.cell(workload.id, tool.id)
        outcome = cell.outcome
        if not cell.runs or not outcome:
            rows.append([tool.title, "—", "—", "—", cell.failure or "nothing that could be read"])
            continue
        depths = outcome.depths
        span = "—" if not depths else str(depths[0]) if min(depths) == max(depths) else f"{min(depths)}–{max(depths)}"
        main = "—" if outcome.to_main is None or not depths else f"{outcome.to_main} of {len(depths)}"
        rows.append([tool.title, span, main, _exits(cell), outcome.says])
    return table(["tool", "frames of a stack in libav", "stacks that reach main", "exit status", "what it says"], rows)


def render(results, workloads, tools, versions, settings, seconds):
    """The whole page. `settings` says in words how it was run."""
    lines = [
        "# Benchmarks\n",
        ABOUT_PAGE,
        f"- {machine()}",
        f"- {'; '.join(f'{name} {version}' for name, version in versions)}",
        f"- {time.strftime('%Y-%m-%d', time.gmtime())}, {settings}; {seconds / 60:.0f} minutes in all. Meanwhile other processes took"
        f" {results.foreign_share() * 100:.0f} % of one processor.\n",
        *([ABOUT_BUSY] if results.foreign_share() > BUSY_SHARE else []),
        ABOUT_FIGURES,
    ]
    bars = bar_rows(results, workloads)
    if bars:
        lines += [
            "## The bars\n",
            table(["workload", "what", "bar", "avleak", "heaptrack", "met"], bars, right=("avleak", "heaptrack")),
        ]
    for workload in workloads:
        if workload.per_pair:
            continue
        lines += [
            f"## ({workload.id}) {workload.title[0].upper()}{workload.title[1:]}\n",
            process_table(results, workload, tools),
        ]
        if workload.id == "e":
            lines += [
                "### What each tool gave for it\n",
                ABOUT_LOST,
                depth_table(results, workload, tools),
            ]
    if any(workload.per_pair for workload in workloads):
        lines += [
            "## (c) malloc and free, 20 functions deep\n",
            ABOUT_MICRO,
            micro_tables(results, workloads, tools),
        ]
    return "\n".join(lines)
