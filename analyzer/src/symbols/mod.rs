//! Names code addresses of the target: function, inlined functions, source line, or module and offset.
//!
//! [`Symbolizer`] is the door. Below it: [`table`] (sized function symbols), `elf` (reading an ELF file without trusting it), `in_memory` (the build id of one that is mapped),
//! `blocks` (with few calls of the kernel), `locate` (finding the right file, and proving that it is the right one), `dwarf` (lines and inlined functions by
//! addr2line), [`demangle`], [`key`] (an address's identity that is the same in every run).
//!
//! Guarantees: a file is used only where its build id is the one that the process loaded; paths are those of the target and
//! stay below its root; a module is opened at its first address; a corrupt file costs its names and leaves a note.
//! Not for: code without a module (JITs, Go functions), which keeps its absolute address.

use std::path::{Path, PathBuf};

use avleak_wire::layout;

use crate::address::TargetRange;

pub(crate) mod blocks;
pub mod demangle;
mod dwarf;
mod elf;
pub mod go_image;
mod in_memory;
pub mod key;
mod locate;
pub mod pclntab;
mod symbolizer;
pub mod table;
#[cfg(test)]
mod tests;

/// The GNU build id of an ELF file, lower-case hex digits; `None` where it has none or is no ELF file.
pub fn build_id(file: &std::fs::File) -> Option<String> {
    let identity = elf::identify(file).ok()?;
    (!identity.build_id.is_empty()).then(|| key::hex(&identity.build_id))
}

pub use in_memory::build_id_in_memory;
pub use key::{FrameKey, StableHasher};
pub use symbolizer::Symbolizer;
pub use table::{Symbol, SymbolTable};

/// Instead of a module's number: the frame is a function of Python's, its "address" what the reader of scripts takes
/// ([`Symbolizer::read_scripts_by`]).
pub const PYTHON: u32 = u32::MAX - 1;

/// A function of a script, as the process itself said when it ran.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScriptCall {
    /// Path of the file; `<string>` and the like for code that came from elsewhere.
    pub file: String,
    /// Qualified name.
    pub function: String,
    /// 0: not known.
    pub line: u32,
}

/// What says which call a frame of [`PYTHON`] is.
pub type ReadScript = Box<dyn Fn(u64) -> Option<ScriptCall> + Send + Sync>;

/// One loaded ELF object of the target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Module {
    /// Its number on the wire; stacks name modules by it.
    pub index: u32,
    /// Load bias: runtime address minus the address in the file.
    pub base: u64,
    /// From its lowest mapped byte to one past its highest.
    pub range: TargetRange,
    /// As the target names it; may end in ` (deleted)`.
    pub path: PathBuf,
    /// The GNU build id that was in memory; empty where the module has none.
    pub build_id: Vec<u8>,
    /// `avleak_wire::layout::MODULE_*`.
    pub flags: u32,
}

impl Module {
    /// One of FFmpeg's libraries.
    pub fn is_libav(&self) -> bool {
        is_libav(self.flags)
    }

    /// FFmpeg lies in it beside other code: a program or plug-in that FFmpeg is linked into. Then only symbols tell whose a function is.
    pub fn is_mixed(&self) -> bool {
        /// FFmpeg's own libraries, and what packs them into one (Chromium's libffmpeg, Firefox's libmozavutil).
        const WHOLE: [&str; 5] = ["libav", "libsw", "libpostproc", "libffmpeg", "libmozav"];
        self.flags & layout::MODULE_LIBAVUTIL != 0
            && !self.name().is_some_and(|name| WHOLE.iter().any(|prefix| name.starts_with(prefix)))
    }

    /// libavleak.so itself: its frames belong in no report.
    pub fn is_own(&self) -> bool {
        self.flags & layout::MODULE_SELF != 0
    }

    /// The C library or its loader. Their lines are not looked up: nobody can change them, and where the distribution's debug package is
    /// installed, unpacking it took longer than all the rest of a check.
    pub fn is_c_library(&self) -> bool {
        const NAMES: [&str; 5] = ["libc.so.", "libc-2.", "libpthread", "ld-linux", "ld-2."];
        self.name().is_some_and(|name| NAMES.iter().any(|prefix| name.starts_with(prefix)))
    }

    /// The path without the kernel's ` (deleted)`.
    pub fn clean_path(&self) -> &Path {
        without_deleted(&self.path).0
    }

    /// The file's name without its folder, as reports show it.
    pub fn name(&self) -> Option<String> {
        self.clean_path().file_name().map(|n| n.to_string_lossy().into_owned())
    }
}

/// These `MODULE_*` flags are of a module of FFmpeg's.
pub fn is_libav(flags: u32) -> bool {
    flags & (layout::MODULE_FFMPEG | layout::MODULE_LIBAVUTIL) != 0
}

/// A function's linker name is one that FFmpeg keeps for itself.
pub fn is_ffmpeg_name(name: &str) -> bool {
    const PREFIXES: [&str; 18] = [
        "av_",
        "avpriv_",
        "avutil_",
        "avcodec_",
        "avformat_",
        "avio_",
        "avfilter_",
        "avdevice_",
        "avsubtitle_",
        "avpicture_",
        "sws_",
        "swr_",
        "swri_",
        "pp_",
        "postproc_",
        "ff_",
        "ffio_",
        "ffurl_",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The path without ` (deleted)`, and whether it had that.
fn without_deleted(path: &Path) -> (&Path, bool) {
    use std::os::unix::ffi::OsStrExt;
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(bytes) => (Path::new(std::ffi::OsStr::from_bytes(bytes)), true),
        None => (path, false),
    }
}
