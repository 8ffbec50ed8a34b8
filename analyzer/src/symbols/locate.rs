//! Finds the files that describe a module, and proves that they are the right ones.
//!
//! The file itself is right where it has the build id that the process loaded. A separate debug file is right where it has
//! the same build id, or the CRC that .gnu_debuglink names. Paths are resolved below the target's root, its symbolic links
//! too, and only regular files are opened.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::elf::{self, ElfError, Identity};
use super::key::hex;
use super::{Module, without_deleted};

/// Largest debug file whose CRC is computed, bytes: about ten seconds.
const LARGEST_CRC: u64 = 8 << 30;

/// Where files are looked for.
#[derive(Debug)]
pub(super) struct Places {
    root: Option<OwnedFd>,
    debug_dirs: Vec<PathBuf>,
}

/// An opened ELF file.
#[derive(Debug)]
pub(super) struct ElfFile {
    /// Open for reading; everything is read through it, so that the path may change hands meanwhile.
    pub file: File,
    /// Below the root that it was found in.
    pub path: PathBuf,
    /// What it says of itself.
    pub identity: Identity,
}

/// The files that describe a module.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The file that was loaded.
    pub main: Option<ElfFile>,
    /// Its separate debug file, looked for where the file itself has no DWARF.
    pub debug: Option<ElfFile>,
    /// What dwz moved out of whichever of the two has the DWARF.
    pub supplement: Option<ElfFile>,
    /// Why there is no main file.
    pub note: Option<String>,
}

impl Places {
    /// Below `root` (`None`: the analyzer's own), debug files in `debug_dirs`. A root that cannot be opened leaves every file
    /// unfound: names from another root would be wrong.
    pub fn new(root: Option<&Path>, debug_dirs: Vec<PathBuf>) -> io::Result<Self> {
        let root = root
            .map(|path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))
            .transpose()?;
        Ok(Self { root, debug_dirs })
    }

    /// Finds the files of `module`.
    pub fn find(&self, module: &Module) -> Found {
        let mut found = Found::default();
        match self.find_main(module) {
            Ok(main) => found.main = main,
            Err(note) => found.note = Some(note),
        }
        if !found.main.as_ref().is_some_and(|m| m.identity.has_dwarf) {
            found.debug = self.find_debug(&module.build_id, found.main.as_ref());
        }
        let with_dwarf = found.debug.as_ref().or(found.main.as_ref());
        found.supplement = with_dwarf.and_then(|file| self.find_supplement(file));
        found
    }

    fn find_main(&self, module: &Module) -> Result<Option<ElfFile>, String> {
        let (path, deleted) = without_deleted(&module.path);
        if path.as_os_str().is_empty() || module.flags & avleak_wire::layout::MODULE_VDSO != 0 {
            return Ok(None);
        }
        let shown = path.display();
        if path.is_relative() && module.build_id.is_empty() {
            return Err(format!("{shown} is a relative path and has no build id: its functions have no names"));
        }
        let main = match self.open_elf(path) {
            Ok(main) => main,
            // A process that changed its root folder has loaded its files before: the build id proves that ours are the same.
            Err(_) if self.is_in_own_root(path, module) => open_elf_in(None, path).map_err(|e| e.to_string())?,
            Err(ElfError::Io(e)) if deleted || e.kind() == io::ErrorKind::NotFound => {
                return Err(format!("{shown} was deleted after the process loaded it: its functions have no names"));
            }
            Err(e) => return Err(format!("cannot read {shown}: {e}: its functions have no names")),
        };
        if !is_loaded_file(module, &main.identity, deleted) {
            return Err(format!(
                "{shown} was replaced after the process loaded it: its functions have no names (restart the process to get \
                 them)"
            ));
        }
        Ok(Some(main))
    }

    fn is_in_own_root(&self, path: &Path, module: &Module) -> bool {
        self.root.is_some()
            && !module.build_id.is_empty()
            && open_elf_in(None, path).is_ok_and(|file| is_loaded_file(module, &file.identity, false))
    }

    fn find_debug(&self, build_id: &[u8], main: Option<&ElfFile>) -> Option<ElfFile> {
        self.find_by_build_id(build_id).or_else(|| self.find_by_debuglink(main?))
    }

    /// `/usr/lib/debug/.build-id/xx/yyyy.debug`: below the target's root, then in the analyzer's (containers have no debug
    /// packages, their hosts may; the build id proves that it fits).
    fn find_by_build_id(&self, build_id: &[u8]) -> Option<ElfFile> {
        let (first, rest) = build_id.split_first()?;
        if rest.is_empty() {
            return None;
        }
        let tail = &format!(".build-id/{first:02x}/{}.debug", hex(rest));
        let roots = if self.root.is_some() { vec![self.root.as_ref(), None] } else { vec![None] };
        roots
            .into_iter()
            .flat_map(|root| self.debug_dirs.iter().map(move |dir| (root, dir.join(tail))))
            .filter_map(|(root, path)| open_elf_in(root, &path).ok())
            .find(|file| file.identity.build_id == build_id)
    }

    fn find_by_debuglink(&self, main: &ElfFile) -> Option<ElfFile> {
        let (name, crc) = main.identity.debuglink.as_ref()?;
        let name = Path::new(OsStr::from_bytes(name));
        // The name is a bare one by definition; one with folders in it would lead anywhere.
        if name.file_name() != Some(name.as_os_str()) {
            return None;
        }
        let folder = main.path.parent()?;
        let mut candidates = vec![folder.join(name), folder.join(".debug").join(name)];
        for dir in &self.debug_dirs {
            candidates.push(dir.join(folder.strip_prefix("/").unwrap_or(folder)).join(name));
        }
        candidates.into_iter().filter(|path| *path != main.path).find_map(|path| {
            let file = self.open_elf(&path).ok()?;
            let ids = (&file.identity.build_id, &main.identity.build_id);
            let differ = !ids.0.is_empty() && !ids.1.is_empty() && ids.0 != ids.1;
            (!differ && crc_of(&file.file).ok()? == *crc).then_some(file)
        })
    }

    fn find_supplement(&self, file: &ElfFile) -> Option<ElfFile> {
        let (name, build_id) = file.identity.altlink.as_ref()?;
        let path = Path::new(OsStr::from_bytes(name));
        let path = file.path.parent().unwrap_or(Path::new("/")).join(path);
        let named = self.open_elf(&path).ok().filter(|f| f.identity.build_id == *build_id);
        named.or_else(|| self.find_by_build_id(build_id))
    }

    fn open_elf(&self, path: &Path) -> Result<ElfFile, ElfError> {
        open_elf_in(self.root.as_ref(), path)
    }
}

/// The file's identity is that of what the process loaded.
fn is_loaded_file(module: &Module, identity: &Identity, deleted: bool) -> bool {
    if !module.build_id.is_empty() {
        // The wire keeps the first bytes of a longer one.
        let kept = module.build_id.len();
        return identity.build_id.len() >= kept
            && identity.build_id[..kept] == module.build_id[..]
            && (identity.build_id.len() == kept || kept == avleak_wire::layout::BUILD_ID_BYTES);
    }
    // Without a build id only a difference can be proved.
    let pages = |bytes: u64| bytes.div_ceil(4096);
    !deleted
        && !identity.build_id_is_loaded
        && (module.range.is_empty() || pages(module.range.len()).abs_diff(pages(identity.span)) <= 1)
}

fn open_elf_in(root: Option<&OwnedFd>, path: &Path) -> Result<ElfFile, ElfError> {
    let file = open_regular(root, path)?;
    let identity = elf::identify(&file)?;
    // Where links led to: debug files lie beside the real file.
    let path = match root {
        None => std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
        Some(_) => path.to_owned(),
    };
    Ok(ElfFile { file, path, identity })
}

/// Opens a regular file without waiting (a FIFO would make it wait) and without leaving `root`.
fn open_regular(root: Option<&OwnedFd>, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match root {
        None => rustix::fs::openat(CWD, path, flags, Mode::empty())?,
        Some(root) => rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?,
    };
    let file = File::from(fd);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

fn crc_of(file: &File) -> io::Result<u32> {
    use std::os::unix::fs::FileExt;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hasher.finalize()),
            n => {
                hasher.update(&buffer[..n]);
                at += n as u64;
            }
        }
        if at > LARGEST_CRC {
            return Err(io::Error::other("too large"));
        }
    }
}
