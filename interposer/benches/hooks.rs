//! Nanoseconds of a malloc+free pair: not hooked, dormant, and recorded with its stack: `cargo bench -p avleak-interposer`.
//!
//! What is measured is the built `libavleak.so`, preloaded into `benches/programs/micro.c` as users preload it, and not functions of it linked in
//! here: a bench that holds the hooks' symbols would be hooked itself, and a stack is only worth unwinding below a program's own frames. Each
//! sample is a run of the program, which times itself (processor time of its thread, after a warm-up); criterion does the statistics, and
//! compares with a saved baseline (`-- --save-baseline`, `--baseline`). What avleak adds to a call is half of the difference to `plain`.
#![allow(missing_docs, reason = "criterion_group makes a public function")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};

/// Stacks of 24 frames, by what the unwinder makes of them.
const STACKS: [(&str, &[&str]); 4] = [
    // Found as a whole each time: a hit.
    ("same", &["--stacks", "same", "--ms", "60"]),
    ("same-rbp-changes", &["--stacks", "same", "--rbp", "changing", "--ms", "60"]),
    // Walked by rules, and known by their hash.
    ("changing", &["--stacks", "changing", "--ms", "300"]),
    // A miss: written down frame by frame. So many only, or the segment's nodes are used up.
    ("new", &["--stacks", "new", "--pairs", "50000"]),
];

struct Place {
    avleak: PathBuf,
    folder: PathBuf,
}

impl Place {
    /// Builds avleak (a hook that is armed needs an analyzer) and the program, with FFmpeg (which arms) and without.
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let mut build = Command::new(env!("CARGO"));
        // All of it, as `make build` does: other choices would have other features of the same dependencies built.
        build.current_dir(&root).args(["build", "--release", "--locked", "--workspace"]);
        succeeds(&mut build);
        for (name, more) in [("micro", &["-DWITH_LIBAV", "-lavutil"][..]), ("micro_dormant", &[])] {
            let mut compile = Command::new("cc");
            // As benches/micro.py does.
            compile.args([
                "-std=gnu17",
                "-g",
                "-O2",
                "-fomit-frame-pointer",
                "-fasynchronous-unwind-tables",
                "-fno-builtin",
            ]);
            compile.args(["-fcf-protection=none", "-D_GNU_SOURCE"]).arg(root.join("benches/programs/micro.c"));
            succeeds(compile.arg("-o").arg(folder.join(name)).arg("-lpthread").args(more));
        }
        // tmp lies beside the profiles' folders.
        let avleak = folder.join("../release/avleak");
        Self { avleak, folder }
    }

    /// One run: nanoseconds a pair.
    fn nanoseconds(&self, program: &str, watched: bool, options: &[&str]) -> f64 {
        let program = self.folder.join(program);
        let mut command = if watched {
            let mut command = Command::new(&self.avleak);
            command.args(["run", "-q", "--json"]).arg(self.folder.join("report.json")).arg("--").arg(program);
            command
        } else {
            Command::new(program)
        };
        // Whatever the exit status: of a program without FFmpeg avleak has nothing to say.
        let done = command.args(options).stdin(Stdio::null()).output().expect("a program that can be started");
        let printed = String::from_utf8(done.stdout).expect("UTF-8");
        let line: serde_json::Value = serde_json::from_str(&printed).expect("a line of JSON");
        line["cpu_ns"].as_f64().expect("its time")
    }
}

fn succeeds(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status().expect("a command that can be started");
    assert!(status.success(), "{command:?}: {status}");
}

fn pairs(criterion: &mut Criterion) {
    let place = Place::new();
    let mut group = criterion.benchmark_group("pair");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    let mut bench = |way: &str, stacks: &str, program: &str, watched: bool, options: &[&str]| {
        group.bench_function(BenchmarkId::new(way, stacks), |bencher| {
            // A run tells the mean over its pairs, whatever their number.
            bencher.iter_custom(|pairs| {
                Duration::from_secs_f64(place.nanoseconds(program, watched, options) * pairs as f64 / 1e9)
            });
        });
    };
    for (stacks, options) in STACKS {
        bench("plain", stacks, "micro", false, options);
        bench("recorded", stacks, "micro", true, options);
    }
    bench("plain", "no-libav", "micro_dormant", false, STACKS[0].1);
    bench("dormant", "no-libav", "micro_dormant", true, STACKS[0].1);
    group.finish();
}

criterion_group! {
    name = hooks;
    // Runs, not pairs, are what takes time: criterion is to ask for as few as it can.
    config = Criterion::default().warm_up_time(Duration::from_nanos(1)).measurement_time(Duration::from_millis(1));
    targets = pairs
}
criterion_main!(hooks);
