"""The tools that are compared: how each is found, started, and asked for every allocation with its whole stack.

Each runs as its own documentation says for finding leaks, with the limit of stack depth lifted where
there is an option.
"""

import glob
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Depth to which the tools that have a limit may unwind.
DEPTH = 64


@dataclass(frozen=True)
class Tool:
    """`command` and `environment` take (files of the tools, folder for output); `needs` names files that must be."""

    id: str
    title: str
    needs: tuple
    command: Callable
    environment: Callable
    # Exit status by which the tool itself says "leaks"; None: it has none.
    leak_exit: int | None
    package: str


def _library(name):
    """A shared library as the loader finds it."""
    for folder in ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/local/lib", "/usr/lib64"):
        for path in sorted(glob.glob(f"{folder}/{name}")):
            return path
    return None


def _lsan():
    compiler = shutil.which("gcc")
    if not compiler:
        return None
    path = subprocess.run(
        [compiler, "-print-file-name=liblsan.so"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return os.path.realpath(path) if os.path.isabs(path) else None


def locate(avleak):
    """Paths by name; None for what is not installed. `avleak` is the path of the analyzer."""
    avleak = Path(avleak)
    library = avleak.parent / "libavleak.so"
    return {
        "avleak": str(avleak) if avleak.exists() and library.exists() else None,
        "heaptrack": shutil.which("heaptrack"),
        "valgrind": shutil.which("valgrind"),
        "tcmalloc": _library("libtcmalloc.so.4"),
        "pprof": shutil.which("google-pprof") or shutil.which("pprof"),
        "jemalloc": _library("libjemalloc.so.2"),
        "lsan": _lsan(),
    }


def _none(_files, _folder):
    return []


def _no_environment(_files, _folder):
    return {}


def _lsan_tool(id, title, fast):
    def environment(files, folder):
        options = f"log_path={folder}/lsan:fast_unwind_on_malloc={fast}:malloc_context_size={DEPTH}:exitcode=23"
        return {"LD_PRELOAD": files["lsan"], "LSAN_OPTIONS": options}

    return Tool(id, title, ("lsan",), _none, environment, 23, "liblsan0 and gcc")


TOOLS = [
    Tool("plain", "plain", (), _none, _no_environment, None, ""),
    Tool(
        "avleak",
        "avleak",
        ("avleak",),
        lambda files, folder: [files["avleak"], "run", "-q", "--json", f"{folder}/avleak.json", "--"],
        _no_environment,
        1,
        "",
    ),
    Tool(
        "heaptrack",
        "heaptrack",
        ("heaptrack",),
        lambda files, folder: [files["heaptrack"], "-o", f"{folder}/heaptrack"],
        _no_environment,
        None,
        "heaptrack",
    ),
    Tool(
        "valgrind",
        "Valgrind memcheck",
        ("valgrind",),
        lambda files, folder: [
            files["valgrind"],
            "--leak-check=full",
            "--error-exitcode=9",
            "--errors-for-leak-kinds=definite",
            f"--num-callers={DEPTH}",
            f"--log-file={folder}/valgrind.log",
        ],
        _no_environment,
        9,
        "valgrind",
    ),
    Tool(
        "heapcheck",
        "gperftools HEAPCHECK=normal",
        ("tcmalloc", "pprof"),
        _none,
        lambda files, folder: {
            "LD_PRELOAD": files["tcmalloc"],
            "HEAPCHECK": "normal",
            "PPROF_PATH": files["pprof"],
            "HEAP_CHECK_DUMP_DIRECTORY": str(folder),
        },
        1,
        "google-perftools and libgoogle-perftools-dev",
    ),
    Tool(
        "heapprofile",
        "gperftools heap profiler",
        ("tcmalloc",),
        _none,
        lambda files, folder: {"LD_PRELOAD": files["tcmalloc"], "HEAPPROFILE": f"{folder}/profile"},
        None,
        "libgoogle-perftools-dev",
    ),
    Tool(
        "jemalloc",
        "jemalloc prof, every allocation",
        ("jemalloc",),
        _none,
        lambda files, folder: {
            "LD_PRELOAD": files["jemalloc"],
            "MALLOC_CONF": f"prof:true,lg_prof_sample:0,prof_final:true,prof_leak:true,prof_prefix:{folder}/jemalloc",
        },
        None,
        "libjemalloc2",
    ),
    _lsan_tool("lsan", "LeakSanitizer, default unwinder", 1),
    _lsan_tool("lsan-full", "LeakSanitizer, fast_unwind_on_malloc=0", 0),
]


def by_id(id):
    """The tool of that id; None where there is none."""
    return next((tool for tool in TOOLS if tool.id == id), None)


def why_missing(tool, files):
    """None where the tool can run, else a line that says what is missing and how to get it."""
    missing = [need for need in tool.needs if not files[need]]
    if not missing:
        return None
    if tool.id == "avleak":
        return "not built: run `make build`, or name another with --avleak"
    return f"not installed: {', '.join(missing)} (Debian: {tool.package}; run `make setup-bench`)"


def clean_environment(base):
    """An environment in which no other tool works: `base` without preloads and options of allocators and profilers."""
    prefixes = (
        "AVLEAK_",
        "HEAPCHECK",
        "HEAP_",
        "HEAPPROFILE",
        "MALLOC_",
        "LSAN_",
        "ASAN_",
        "TCMALLOC_",
        "LD_PRELOAD",
        "PYTHONMALLOC",
        "GLIBC_TUNABLES",
        "VALGRIND_",
    )
    return {name: value for name, value in base.items() if not name.startswith(prefixes)}
