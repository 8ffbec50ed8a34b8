//! What Valgrind's memcheck says of a program: the classes of its blocks, by the function that allocated them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{self, Finished};
use crate::truth::{functions, number};

/// The classes, as avleak writes them, with Valgrind's names.
pub const CLASSES: [(&str, &str); 4] = [
    ("definitely_lost", "Leak_DefinitelyLost"),
    ("indirectly_lost", "Leak_IndirectlyLost"),
    ("possibly_lost", "Leak_PossiblyLost"),
    ("still_reachable", "Leak_StillReachable"),
];

/// How many blocks of each class, by what they are: `AVFrame`, or the program's own function that allocated them.
pub type Census = BTreeMap<(String, &'static str), u64>;

/// A leak record of memcheck.
#[derive(Debug)]
pub struct Record {
    /// As avleak writes it.
    pub class: &'static str,
    /// Blocks.
    pub blocks: u64,
    /// Innermost first, the allocator's functions too; those without a name are left out.
    pub stack: Vec<String>,
}

/// Runs a program under memcheck. Returns its run and the leak records of the first process.
pub fn memcheck<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> (Finished, Vec<Record>) {
    memcheck_behind(&[], arguments)
}

/// The same, memcheck itself started by `prefix`: it does not follow what another program executes.
pub fn memcheck_behind<S: AsRef<OsStr>>(
    prefix: &[OsString],
    arguments: impl IntoIterator<Item = S>,
) -> (Finished, Vec<Record>) {
    let folder = crate::scratch();
    // The prefix may change the user.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("the folder's mode");
    let file = folder.path().join("memcheck.xml");
    let mut words = prefix.iter().cloned().chain(["valgrind".into()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command.args(["-q", "--leak-check=full", "--show-leak-kinds=all", "--leak-resolution=high", "--num-callers=60"]);
    command.args(["--xml=yes", "--child-silent-after-fork=yes"]).arg(format!("--xml-file={}", file.display()));
    command.args(arguments);
    let finished = process::run(&mut command, Duration::from_secs(900));
    let xml = std::fs::read_to_string(&file).expect("memcheck's XML");
    (finished, xml.split("<error>").skip(1).filter_map(record).collect())
}

fn record(error: &str) -> Option<Record> {
    let kind = between(error, "<kind>", "</kind>")?;
    let class = CLASSES.iter().find(|(_, name)| *name == kind)?.0;
    let blocks = between(error, "<leakedblocks>", "</leakedblocks>")?.parse().ok()?;
    let stack = error.split("<fn>").skip(1).filter_map(|part| Some(part.split_once("</fn>")?.0.to_owned())).collect();
    Some(Record { class, blocks, stack })
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    text.split_once(from)?.1.split_once(to).map(|(inner, _)| inner)
}

/// Sorts Valgrind's records into AVFrames and the blocks of the program's own `makers`.
pub fn census_of_memcheck(records: &[Record], makers: &[&str]) -> Census {
    let mut census = Census::new();
    for record in records {
        let stack: Vec<&str> = record.stack.iter().map(String::as_str).filter(|name| !is_allocator(name)).collect();
        if let Some(what) = what_is_it(&stack, makers) {
            *census.entry((what, record.class)).or_default() += record.blocks;
        }
    }
    census
}

/// Sorts avleak's groups in the same way.
pub fn census_of_report(report: &Value, makers: &[&str]) -> Census {
    let mut census = Census::new();
    for group in report["groups"].as_array().into_iter().flatten() {
        let stack: Vec<&str> = functions(&group["stack"]).into_iter().filter(|name| !is_allocator(name)).collect();
        let class = CLASSES.iter().find(|(name, _)| group["class"] == *name).map(|(name, _)| *name);
        if let (Some(what), Some(class)) = (what_is_it(&stack, makers), class) {
            *census.entry((what, class)).or_default() += number(&group["count"]);
        }
    }
    census
}

/// Frames by the function that makes them; plain blocks by a maker that is the innermost function of the stack.
fn what_is_it(stack: &[&str], makers: &[&str]) -> Option<String> {
    let innermost = *stack.first()?;
    if innermost == "av_frame_alloc" {
        Some("AVFrame".into())
    } else {
        makers.contains(&innermost).then(|| innermost.to_owned())
    }
}

fn is_allocator(name: &str) -> bool {
    matches!(
        name,
        "malloc"
            | "calloc"
            | "realloc"
            | "reallocarray"
            | "posix_memalign"
            | "memalign"
            | "aligned_alloc"
            | "av_malloc"
            | "av_mallocz"
    )
}
