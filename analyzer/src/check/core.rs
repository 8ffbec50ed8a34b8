//! The check of a process that is no more: by what its session's file knows, and the memory in its core file.
//!
//! It is the check of a stopped process (`super::look`), over other memory. What makes it another matter is whether the two files belong
//! together, in person and in time:
//!
//! * a session that was saved at the process's end knows every event that happened before the core was written;
//! * one that was saved while the process ran on knows what was alive *then*. Where the core is older, a block of the core's time that the
//!   session has was alive all the while, and what was given back in between is unknown memory, which is searched and may hide a leak.
//!   Where the session is older, what was given back in between would look lost: that is refused;
//! * one of a process that job control had stopped is as of the core's own moment, as long as it was not let go in between.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use super::{
    EVERYTHING, Found, Known, Looked, Motion, Prepared, Reach, Search, Subject, conclude, has_missed, prepare, roots,
    time,
};
use crate::address::TargetRange;
use crate::golang::GoProcess;
use crate::live::LiveBlock;
use crate::reach::{Control, ReturnedMap};
use crate::render::units;
use crate::report::model::{Check, Ended, Level, MemoryMeans, Report};
use crate::report::post_mortem::PostMortem;
use crate::session::drain::Drained;
use crate::session::saved::{Moment, Saved};
use crate::symbols::go_image::GoImage;
use crate::target::core::{Core, CoreMemory, Hints, Sources};
use crate::target::maps::{self, Mapping};
use crate::target::memory::Memory;
use crate::target::process_memory::CachedMemory;
use crate::target::threads::ThreadState;
use crate::target::touched::Touched;

/// What is asked for.
pub struct CoreOrder<'a> {
    /// The session's file, for messages.
    pub session_path: &'a Path,
    /// The core's.
    pub core_path: &'a Path,
    /// What the process saw as `/`; `None`: what is `/` here.
    pub root: Option<&'a Path>,
    /// What counts as a leak.
    pub level: Level,
    /// Bytes done and to do, now and then.
    pub progress: &'a dyn Fn(u64, u64),
    /// Set to end the check early.
    pub cancel: &'a AtomicBool,
}

/// Checks and reports.
///
/// # Errors
/// A line: the files do not belong together, or the search failed.
pub fn run(saved: Saved, core: Core, order: &CoreOrder<'_>) -> Result<Report, String> {
    let (started, begun) = (time(SystemTime::now()), Instant::now());
    let mut notes = Vec::new();
    belongs(&saved, &core, order)?;
    let after = in_time(&saved, &core, order, &mut notes)?;
    let (pid, signal, auxv) = (saved.head.pid, core.signal(), core.auxv().to_vec());
    let (head, known, before) = (saved.head.clone(), saved.known.clone(), saved.writable_before());
    let exe = PathBuf::from(OsString::from_vec(head.exe));
    let mut drained = saved.develop(exe.clone(), order.root);
    let loaded = |drained: &Drained| -> Vec<(u64, Vec<u8>)> {
        let modules = drained.types.symbolizer.modules();
        modules.map(|module| (module.range.start, module.build_id.clone())).collect()
    };
    let sources = Sources { root: order.root.map(Path::to_path_buf), loaded: loaded(&drained) };
    let (memory, maps, threads) = core.lay_out(sources, Hints { heap: head.identity.heap });
    let memory = CachedMemory::new(memory);
    if let Some(why) = head.identity.differs(&auxv, &memory) {
        return Err(others(order, &why));
    }
    another_build(&drained, &maps, &memory).map_or(Ok(()), |why| Err(others(order, &why)))?;
    if let Some(cut) = after {
        forget_what_came_after(&mut drained, cut);
        notes.push(
            "the session was saved after the core was written: what was given back in between is searched as if it were in use, and may hide leaks"
                .into(),
        );
    }
    let missed = has_missed(&mut drained) || after.is_some();
    let before = if missed { &EVERYTHING[..] } else { &before[..] };
    let mut blocks = drained.live.blocks();
    if let Some(cut) = after {
        blocks.retain(|block| block.stamp <= cut);
    }
    let dropped = drained.dropped > 0 || drained.corrupt_rings > 0;
    let looked = look(&mut drained, &mut blocks, &memory, (&maps, &threads), before, dropped, order)?;
    if let Some(note) = missing_files(&memory.inner().missing_code()) {
        notes.push(note);
    }
    let own = roots::own_memory(&drained, &maps);
    let left_out = memory.inner().left_out(&own);
    if left_out > 0 {
        notes.push(format!(
            "{} of writable memory are not in the core: nobody ever wrote there, or the program kept them out of it (MADV_DONTDUMP), and then \
             what only they held is called lost",
            units::bytes(left_out)
        ));
    }
    let ended = match head.moment {
        Moment::Ended => head.ended.or(signal.map(Ended::Signal)),
        Moment::Running | Moment::Stopped => None,
    };
    let mut subject = Subject {
        pid,
        exe: exe.to_string_lossy().into_owned(),
        argv: head.argv,
        origin: head.origin,
        ended,
        drained,
        reach: Reach::Gone(String::new()),
        writable_before: Vec::new(),
        untraced: None,
        notes: Vec::new(),
        known: Known::default(),
    };
    let post_mortem = PostMortem { grew: known.grew, ..PostMortem::default() };
    let found = Found {
        blocks,
        looked: Some(looked),
        means: MemoryMeans::Core,
        memory_reason: None,
        notes,
        check: Check { started, duration_s: 0.0, stopped_ms: 0.0, scans: 1 },
        ended,
        post_mortem: Some(post_mortem).filter(|known| !known.is_empty()),
    };
    Ok(conclude(&mut subject, order.level, true, found, begun))
}

/// As `super::look` of a process that stands still.
fn look(
    drained: &mut Drained,
    blocks: &mut [LiveBlock],
    memory: &CachedMemory<CoreMemory>,
    (maps, threads): (&[Mapping], &[ThreadState]),
    before: &[TargetRange],
    missed: bool,
    order: &CoreOrder<'_>,
) -> Result<Looked, String> {
    let mapped: Vec<TargetRange> = maps.iter().map(|mapping| mapping.range).collect();
    drained.live.returned.forget_unmapped(&mapped);
    let touched = Touched::told(memory.inner().written());
    let go_behind = |mapping: &Mapping| {
        let file = memory.inner().file_of(mapping)?;
        let image = GoImage::open(&file)?;
        Some((file, image))
    };
    let golang = GoProcess::discover_in(&go_behind, maps, threads, memory);
    let Prepared { graph, formats, list, python } = prepare(drained, blocks, memory, maps);
    let search = Search {
        tid: threads.first().map_or(0, |thread| thread.tid),
        maps,
        threads,
        blocks,
        list: &list,
        python: python.as_ref(),
        touched: &touched,
        golang: &golang,
        before,
        motion: Motion::Still,
        missed,
        reached: &[],
        left_out: &[],
        control: &Control { progress: order.progress, cancel: order.cancel },
    };
    search.run(drained, memory.inner(), None, graph, formats)
}

/// What is to be said of programs and libraries that are not here, or are other builds by now.
fn missing_files(missing: &[String]) -> Option<String> {
    let (first, others) = missing.split_first()?;
    let others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
    Some(format!(
        "{first}{others} are not here as the process had them mapped: their functions may have no names, and where it is a Go program its heap is \
         searched as a whole, which hides leaks (name the folder that has them by --sysroot)"
    ))
}

/// The files are of two processes.
fn others(order: &CoreOrder<'_>, why: &str) -> String {
    format!(
        "the core {} and the session {} are not of the same process: {why} (name the session file that has the core's process id)",
        order.core_path.display(),
        order.session_path.display()
    )
}

/// Whether the core is of the session's process, as far as its notes tell.
fn belongs(saved: &Saved, core: &Core, order: &CoreOrder<'_>) -> Result<(), String> {
    let (outer, inner) = (saved.head.pid, saved.inner_pid());
    match core.pid() {
        Some(pid) if pid != outer && pid != inner => {
            let name = core.name().map_or_else(String::new, |name| format!(" ({name})"));
            let exe = String::from_utf8_lossy(&saved.head.exe);
            let own = exe.rsplit('/').next().unwrap_or_default();
            Err(others(order, &format!("the core is of pid {pid}{name}, the session of pid {outer} ({own})")))
        }
        _ => Ok(()),
    }
}

/// A file of another build was loaded where the session saw one: its build id in the core's memory is not the one that was recorded.
fn another_build(drained: &Drained, maps: &[Mapping], memory: &dyn Memory) -> Option<String> {
    let stem = |name: &str| name.split(".so").next().unwrap_or_default().to_string();
    drained.types.symbolizer.modules().find_map(|module| {
        // One that was unloaded may have left its place to another library.
        let there = maps::find(maps, module.range.start)?.path()?.file_name()?.to_string_lossy().into_owned();
        if stem(&there) != stem(&module.name()?) {
            return None;
        }
        // Where its first page is not in the core, nothing is known.
        let theirs = crate::symbols::build_id_in_memory(&|at, buffer| memory.read(at, buffer), module.range.start)?;
        let length = module.build_id.len().min(theirs.len());
        let differs = length > 0 && theirs[..length] != module.build_id[..length];
        let (is_program, is_libav) = (module.range.start == first_start(drained), module.is_libav());
        (differs && (is_program || is_libav)).then(|| {
            let hex = crate::symbols::key::hex;
            let name = module.name().unwrap_or_default();
            format!("{name} has build id {} in the core, {} in the session", hex(&theirs), hex(&module.build_id))
        })
    })
}

/// The program itself lies lowest.
fn first_start(drained: &Drained) -> u64 {
    drained.types.symbolizer.modules().map(|module| module.range.start).min().unwrap_or(0)
}

/// Whether what the session knows holds at the core's moment. `Some`: only of what is not younger than this stamp.
fn in_time(saved: &Saved, core: &Core, order: &CoreOrder<'_>, notes: &mut Vec<String>) -> Result<Option<u64>, String> {
    let saved_s = saved.head.saved_ns as f64 / 1e9;
    let age_s = core.written_s().map(|written_s| saved_s - written_s);
    let (moment, ended) = (saved.head.moment, saved.head.ended);
    // What ended it is what the kernel wrote the core for.
    let is_of_its_end = core.signal().is_some_and(|signal| ended.is_none_or(|ended| ended == Ended::Signal(signal)));
    match (moment, age_s) {
        (Moment::Ended, _) if is_of_its_end => Ok(None),
        // gcore's, from before the end; or the session is of later.
        (Moment::Ended | Moment::Running, Some(age_s)) if age_s >= 0.0 => Ok(Some(saved.stamp_before(age_s))),
        (Moment::Ended, _) => {
            notes.push(
                "by its time the core was written after the process had ended: it is taken to be of its end".into(),
            );
            Ok(None)
        }
        (Moment::Stopped, _) => {
            notes.push(
                "the session was saved while the process was stopped (SIGSTOP): this holds if it was not continued before the core was written"
                    .into(),
            );
            Ok(None)
        }
        (Moment::Running, newer) => Err(format!(
            "the session {} was saved {} before the core {} was finished, and the process ran on: what it gave back in between would look lost \
             (write the core first and ask for the session then: `gcore -o core PID`, `avleak check PID --session FILE`; keep the core's time \
             where it is copied, `cp -p`)",
            order.session_path.display(),
            newer.map_or_else(|| "some time".into(), |age_s| units::seconds(-age_s)),
            order.core_path.display()
        )),
    }
}

/// The session is younger than the core, whose moment is `cut`.
fn forget_what_came_after(drained: &mut Drained, cut: u64) {
    // What was given back since then was in use: all memory of no known block may hold something.
    drained.live.returned = ReturnedMap::default();
    drained.now = drained.now.min(cut);
}
