//! The files that a process maps as code, and which of them have Go in them.
//!
//! Hardly one has, of the two hundred that FFmpeg brings, and to find that out each is opened and read in two places: 5 ms for which a process
//! that is checked at its end would stand still, and as much work again for each scan of one that lives. So files are looked
//! at ahead, while the process runs, and those without Go are remembered: by what changes when their content does, for the number of a
//! file that is gone is given to another.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustc_hash::FxHashSet;

use crate::symbols::go_image::GoImage;
use crate::target::maps::Mapping;

/// Files that are remembered; then all are forgotten.
const MOST: usize = 20_000;
/// What is looked at ahead goes behind everything else.
const NICE: i32 = 19;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Content {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Status change, seconds and nanoseconds: nobody can set it back.
    changed: (i64, i64),
}

impl Content {
    fn of(data: &std::fs::Metadata) -> Self {
        let changed = (data.ctime(), data.ctime_nsec());
        Self { device: data.dev(), inode: data.ino(), bytes: data.size(), changed }
    }
}

static WITHOUT_GO: LazyLock<Mutex<FxHashSet<Content>>> = LazyLock::new(Mutex::default);

fn without_go() -> std::sync::MutexGuard<'static, FxHashSet<Content>> {
    WITHOUT_GO.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The files of one process.
pub struct Files {
    tid: i32,
    program_inode: u64,
}

impl Files {
    /// Of the process of thread `tid`.
    pub fn of(tid: i32) -> Self {
        let program_inode = std::fs::metadata(program(tid)).map_or(0, |data| data.ino());
        Self { tid, program_inode }
    }

    /// The Go in the file behind a mapping; `None` where there is none, or the file is not there any more.
    pub fn go_behind(&self, mapping: &Mapping) -> Option<(File, GoImage)> {
        let path = mapping.path()?;
        let below_root = || {
            let root = PathBuf::from(format!("/proc/{}/root", self.tid));
            root.join(path.strip_prefix("/").unwrap_or(path))
        };
        // The program itself is there even where its file was replaced.
        let is_program = mapping.inode == self.program_inode;
        if is_program && let Some(found) = look(&program(self.tid), mapping) {
            return found;
        }
        look(&below_root(), mapping)?
    }

    /// Looks at all of them now, on a thread of its own, for whoever asks later.
    pub fn look_ahead(tid: i32, maps: Vec<Mapping>) {
        let look_at_all = move || {
            // Of the calling thread, whatever the name says (setpriority(2), "C library/kernel differences").
            let _ = rustix::process::setpriority_process(None, NICE);
            let files = Self::of(tid);
            for mapping in each_file(&maps) {
                let _ = files.go_behind(mapping);
            }
        };
        // Without a thread for it they are looked at when they are asked for.
        let _ = std::thread::Builder::new().name(format!("files-{tid}")).spawn(look_at_all);
    }
}

/// The first executable mapping of each file.
pub fn each_file(maps: &[Mapping]) -> impl Iterator<Item = &Mapping> {
    let mut seen = FxHashSet::default();
    let code = maps.iter().filter(|mapping| mapping.executable && mapping.path().is_some());
    code.filter(move |mapping| seen.insert((mapping.inode, mapping.device)))
}

fn program(tid: i32) -> PathBuf {
    format!("/proc/{tid}/exe").into()
}

/// `None` where the file is not there; within, what Go it has. Only the file that is mapped: whatever has the name by now, nobody waits for it.
fn look(path: &Path, mapping: &Mapping) -> Option<Option<(File, GoImage)>> {
    let is_it = |data: &std::fs::Metadata| data.is_file() && data.ino() == mapping.inode;
    let named = std::fs::metadata(path).ok().filter(is_it)?;
    if without_go().contains(&Content::of(&named)) {
        return Some(None);
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let opened = file.metadata().ok().filter(is_it)?;
    match GoImage::look(&file) {
        Ok(Some(image)) => Some(Some((file, image))),
        Ok(None) => {
            let mut known = without_go();
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(Content::of(&opened));
            Some(None)
        }
        // What could not be read is looked at again.
        Err(_) => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::maps;

    #[test]
    fn a_file_without_go_is_remembered_until_it_is_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("library.so");
        let mapping_of = |path: &Path| {
            let maps = maps::read_maps(std::process::id() as i32).expect("the mappings");
            let inode = std::fs::metadata(path).expect("the file").ino();
            let mut mapping = maps.into_iter().find(|mapping| mapping.executable).expect("code");
            mapping.inode = inode;
            mapping
        };
        let is_known = || without_go().contains(&Content::of(&std::fs::metadata(&path).expect("the file")));
        let program = std::fs::read("/bin/true").expect("a small program");
        std::fs::write(&path, &program[..100]).expect("written");
        assert!(matches!(look(&path, &mapping_of(&path)), Some(None)));
        assert!(!is_known(), "what makes no sense may be looked at while it is written");
        std::fs::write(&path, &program).expect("written");
        assert!(matches!(look(&path, &mapping_of(&path)), Some(None)));
        assert!(is_known());
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, &program).expect("written again");
        assert!(!is_known(), "it may be another now");
        let other = folder.path().join("other");
        std::fs::write(&other, "").expect("written");
        assert!(look(&path, &mapping_of(&other)).is_none(), "another file than the one that is mapped");
    }

    #[test]
    fn each_file_is_looked_at_once() {
        let maps = maps::read_maps(std::process::id() as i32).expect("the mappings");
        let files: Vec<_> = each_file(&maps).map(|mapping| (mapping.inode, mapping.device)).collect();
        let distinct: FxHashSet<_> = files.iter().collect();
        assert!(!files.is_empty() && distinct.len() == files.len(), "{files:?}");
    }
}
