//! Source lines and inlined functions of one file, by addr2line.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use addr2line::Loader;

/// Most functions shown as inlined at one address.
const MOST_INLINED: usize = 256;

/// One function at an address, innermost first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Site {
    /// Mangled where the compiler says so.
    pub function: Option<String>,
    /// Source file.
    pub file: Option<String>,
    /// Source line.
    pub line: Option<u32>,
}

/// The debug information of one file.
pub(super) struct Dwarf {
    /// `None` once it made the library panic.
    loader: Option<Loader>,
}

impl Dwarf {
    /// Opens the DWARF of `file`, with what dwz moved into `supplement`. `None` where it cannot be parsed.
    pub fn open(file: &File, supplement: Option<&File>) -> Option<Self> {
        // addr2line opens by path. These lead to the very files that were checked, whoever has their names by now.
        let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let (main, supplement) = (path(file), supplement.map(path));
        let loader = catch_unwind(|| Loader::new_with_sup(&main, supplement.as_ref()).ok()).ok()??;
        Some(Self { loader: Some(loader) })
    }

    /// The functions at `svma`, innermost first; empty where nothing is known.
    pub fn sites(&mut self, svma: u64) -> Vec<Site> {
        let Some(loader) = &self.loader else { return Vec::new() };
        // A panic may leave the loader's caches half made: it is not used again after one.
        match catch_unwind(AssertUnwindSafe(|| sites(loader, svma))) {
            Ok(sites) => sites,
            Err(_) => {
                self.loader = None;
                Vec::new()
            }
        }
    }
}

fn sites(loader: &Loader, svma: u64) -> Vec<Site> {
    let mut sites = Vec::new();
    let Ok(mut frames) = loader.find_frames(svma) else { return sites };
    while let Ok(Some(frame)) = frames.next() {
        sites.push(Site {
            function: frame.function.as_ref().and_then(|f| f.raw_name().ok()).map(|n| n.into_owned()),
            file: frame.location.as_ref().and_then(|l| l.file).map(str::to_owned),
            line: frame.location.as_ref().and_then(|l| l.line).filter(|&line| line != 0),
        });
        if sites.len() == MOST_INLINED {
            break;
        }
    }
    sites
}
