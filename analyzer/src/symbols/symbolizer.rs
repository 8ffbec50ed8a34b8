//! Names the frames of one target's stacks, each address once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::demangle::{demangle, is_mangled};
use super::dwarf::{Dwarf, Site};
use super::go_image::GoImage;
use super::key::FrameKey;
use super::locate::{Found, Places};
use super::pclntab::GoSite;
use super::{Module, PYTHON, ReadScript, SymbolTable, elf, is_ffmpeg_name};
use crate::report::model::Frame;

/// Where distributions put separate debug files.
const DEBUG_DIR: &str = "/usr/lib/debug";

/// Symbols that are remembered by address; where there are more, all are forgotten and looked up anew.
const MOST_SYMBOLS: usize = 1 << 20;
/// Bytes of symbol and string tables that are read for one target in all. A browser's own are below half of that.
const MOST_TABLE_BYTES: u64 = 768 << 20;

/// Names code addresses of one target.
pub struct Symbolizer {
    places: Option<Places>,
    modules: HashMap<u32, Module>,
    /// By the module's path and build id: a library that is loaded again is read once.
    files: HashMap<(PathBuf, Vec<u8>), Names>,
    frames: HashMap<(Option<u32>, u64), Arc<[Frame]>>,
    symbols: HashMap<(u32, u64), Option<Arc<str>>>,
    script: ReadScript,
    reading: Reading,
}

/// What comes up while files are read.
struct Reading {
    notes: Vec<String>,
    /// Bytes of tables that may still be read.
    left: u64,
}

/// What is known of one file.
#[derive(Default)]
struct Names {
    table: SymbolTable,
    /// Opened when a line is first asked for: that is when a report is made, names are needed for every stack. `Some(None)`:
    /// there is none.
    dwarf: Option<Option<Dwarf>>,
    /// Go's own table of lines, opened with it.
    go: Option<Option<Arc<GoImage>>>,
}

impl Symbolizer {
    /// For a target whose files lie below `root` (`/proc/PID/root` for one in a container), `None` for the analyzer's own.
    pub fn new(root: Option<&Path>) -> Self {
        Self::with_debug_dirs(root, vec![DEBUG_DIR.into()])
    }

    /// Like [`new`](Self::new), with separate debug files below `debug_dirs` of the target's root.
    pub fn with_debug_dirs(root: Option<&Path>, debug_dirs: Vec<PathBuf>) -> Self {
        let mut notes = Vec::new();
        let places = match Places::new(root, debug_dirs) {
            Ok(places) => Some(places),
            Err(e) => {
                let root = root.unwrap_or(Path::new("/")).display();
                notes.push(format!("cannot open the target's root {root}: {e}: functions have no names"));
                None
            }
        };
        Self {
            places,
            modules: HashMap::new(),
            files: HashMap::new(),
            frames: HashMap::new(),
            symbols: HashMap::new(),
            script: Box::new(|_| None),
            reading: Reading { notes, left: MOST_TABLE_BYTES },
        }
    }

    /// Frames of [`PYTHON`] are read by `script`.
    pub fn read_scripts_by(&mut self, script: ReadScript) {
        self.script = script;
    }

    /// Makes a module known, or better known; it is opened when its first address is asked for.
    pub fn add_module(&mut self, module: Module) {
        let index = module.index;
        if self.modules.get(&index) == Some(&module) {
            return;
        }
        if self.modules.insert(index, module).is_some() {
            self.frames.retain(|(m, _), _| *m != Some(index));
            self.symbols.retain(|(m, _), _| *m != index);
        }
    }

    /// The module of this number.
    pub fn module(&self, index: u32) -> Option<&Module> {
        self.modules.get(&index)
    }

    /// Every module, in no order.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.values()
    }

    /// This frame is libavleak.so's own and belongs in no report.
    pub fn is_own_frame(&self, module: Option<u32>) -> bool {
        module.and_then(|m| self.modules.get(&m)).is_some_and(Module::is_own)
    }

    /// The same in every run: what a leak group's id is made of.
    pub fn key(&self, module: Option<u32>, return_address: u64) -> FrameKey {
        if module == Some(PYTHON) {
            return FrameKey::of_script(&(self.script)(return_address).unwrap_or_default());
        }
        FrameKey::new(module.and_then(|m| self.modules.get(&m)), return_address)
    }

    /// The linker name of the function whose range holds the call that returns to `return_address`. `None`: a static
    /// function of a stripped library, or nothing is known. Reads no debug information.
    pub fn symbol(&mut self, module: Option<u32>, return_address: u64) -> Option<Arc<str>> {
        let index = module?;
        if let Some(known) = self.symbols.get(&(index, return_address)) {
            return known.clone();
        }
        let module = self.modules.get(&index)?;
        let svma = return_address.wrapping_sub(1).wrapping_sub(module.base);
        let names = names(&mut self.files, &mut self.reading, self.places.as_ref(), module);
        let symbol = names.table.lookup(svma).map(|s| Arc::from(s.name));
        if self.symbols.len() >= MOST_SYMBOLS {
            self.symbols.clear();
        }
        self.symbols.insert((index, return_address), symbol.clone());
        symbol
    }

    /// The call that returns to `return_address` is FFmpeg's code. In a module that holds other code as well its function's name says so,
    /// and that of a static function's neighbours.
    pub fn is_libav_code(&mut self, module: Option<u32>, return_address: u64) -> bool {
        let Some(found) = module.and_then(|index| self.modules.get(&index)) else { return false };
        if !found.is_mixed() {
            return found.is_libav();
        }
        if self.symbol(module, return_address).is_some_and(|name| is_ffmpeg_name(&name)) {
            return true;
        }
        let Some(found) = module.and_then(|index| self.modules.get(&index)) else { return false };
        let svma = return_address.wrapping_sub(1).wrapping_sub(found.base);
        let names = names(&mut self.files, &mut self.reading, self.places.as_ref(), found);
        // An exported function by another name is whoever's name it bears.
        let is_static = names.table.lookup(svma).is_none_or(|symbol| !symbol.exported);
        let (before, behind) = names.table.neighbours(svma);
        is_static && before.is_some_and(is_ffmpeg_name) && behind.is_some_and(is_ffmpeg_name)
    }

    /// The module's static functions have names too. `None` for a module that is not known.
    pub fn is_complete(&mut self, module: u32) -> Option<bool> {
        let module = self.modules.get(&module)?;
        Some(names(&mut self.files, &mut self.reading, self.places.as_ref(), module).table.complete())
    }

    /// The functions at the call that returns to `return_address`: inlined ones first, innermost first. Never empty: where
    /// nothing is known the frame has module and offset only.
    pub fn frames(&mut self, module: Option<u32>, return_address: u64) -> Arc<[Frame]> {
        if let Some(known) = self.frames.get(&(module, return_address)) {
            return known.clone();
        }
        if module == Some(PYTHON) {
            let frames: Arc<[Frame]> = Arc::new([self.script_frame(return_address)]);
            self.frames.insert((module, return_address), frames.clone());
            return frames;
        }
        let symbol = self.symbol(module, return_address);
        let libav = self.is_libav_code(module, return_address);
        let call = return_address.wrapping_sub(1);
        let frames: Arc<[Frame]> = match module.and_then(|m| self.modules.get(&m)) {
            None => Arc::new([Frame { offset: call, ..Frame::default() }]),
            Some(module) => {
                let svma = call.wrapping_sub(module.base);
                let places = self.places.as_ref();
                let names = names(&mut self.files, &mut self.reading, places, module);
                let blank = Frame { module: module.name(), offset: svma, libav, ..Frame::default() };
                let go = go_sites(names, &mut self.reading, places, module, svma);
                if go.is_empty() {
                    let mut open = || open_dwarf(&find(&mut self.reading, places, module));
                    let dwarf = names.dwarf.get_or_insert_with(|| if module.is_c_library() { None } else { open() });
                    let sites = dwarf.as_mut().map(|d| d.sites(svma)).unwrap_or_default();
                    merge(sites, symbol.as_deref(), &blank).into()
                } else {
                    of_go(go, &blank)
                }
            }
        };
        self.frames.insert((module, return_address), frames.clone());
        frames
    }

    fn script_frame(&self, node: u64) -> Frame {
        let call = (self.script)(node).unwrap_or_default();
        let some = |text: String| (!text.is_empty()).then_some(text);
        Frame {
            function: some(call.function),
            file: some(call.file),
            line: (call.line > 0).then_some(call.line),
            python: true,
            ..Frame::default()
        }
    }

    /// What could not be named and why, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        self.reading.notes.clone()
    }
}

/// The names in `module`'s file, found at the first call.
fn names<'a>(
    files: &'a mut HashMap<(PathBuf, Vec<u8>), Names>,
    reading: &mut Reading,
    places: Option<&Places>,
    module: &Module,
) -> &'a mut Names {
    files.entry((module.path.clone(), module.build_id.clone())).or_insert_with(|| {
        let found = find(reading, places, module);
        Names { table: table(&found, reading), ..Names::default() }
    })
}

/// What Go's own table says of `svma`: it is there in stripped files too, and names what is inlined. Empty outside Go's code.
fn go_sites(
    names: &mut Names,
    reading: &mut Reading,
    places: Option<&Places>,
    module: &Module,
    svma: u64,
) -> Vec<GoSite> {
    if module.is_libav() {
        return Vec::new();
    }
    let open = || find(reading, places, module).main.and_then(|main| GoImage::open(&main.file)).map(Arc::new);
    names.go.get_or_insert_with(open).as_ref().map(|image| image.sites(svma)).unwrap_or_default()
}

fn of_go(sites: Vec<GoSite>, blank: &Frame) -> Arc<[Frame]> {
    let last = sites.len().saturating_sub(1);
    let of = |(i, site): (usize, GoSite)| Frame {
        function: Some(site.function),
        file: site.file,
        line: site.line,
        inlined: i != last,
        ..blank.clone()
    };
    sites.into_iter().enumerate().map(of).collect()
}

/// Looks for the module's files; they are closed again once they are read: a process may have loaded a thousand.
fn find(reading: &mut Reading, places: Option<&Places>, module: &Module) -> Found {
    let mut found = places.map(|p| p.find(module)).unwrap_or_default();
    if let Some(note) = found.note.take() {
        reading.note(note);
    }
    found
}

impl Reading {
    /// Once each, and not without end: a target chooses its modules' names.
    fn note(&mut self, note: String) {
        const MOST_NOTES: usize = 100;
        if self.notes.len() < MOST_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// The fullest table of functions: the file's own .symtab, its debug file's, its .dynsym.
fn table(found: &Found, reading: &mut Reading) -> SymbolTable {
    let mut of = |file: Option<&super::locate::ElfFile>| {
        let Some(file) = file else { return SymbolTable::default() };
        match elf::functions(&file.file, &mut reading.left) {
            Ok(table) => table,
            Err(error @ elf::ElfError::TooLarge(_)) => {
                reading.note(format!("cannot read the symbols of {}: {error}", file.path.display()));
                SymbolTable::default()
            }
            Err(_) => SymbolTable::default(),
        }
    };
    let main_is_full = found.main.as_ref().is_some_and(|m| m.identity.has_symtab);
    let main = of(found.main.as_ref());
    if main.complete() || (main_is_full && found.debug.is_none()) {
        return main;
    }
    let debug = of(found.debug.as_ref());
    if debug.is_empty() { main } else { debug }
}

fn open_dwarf(found: &Found) -> Option<Dwarf> {
    let with_dwarf = [&found.main, &found.debug].into_iter().flatten().find(|f| f.identity.has_dwarf)?;
    Dwarf::open(&with_dwarf.file, found.supplement.as_ref().map(|f| &f.file))
}

/// Joins what the debug information says with the symbol table's name.
fn merge(sites: Vec<Site>, symbol: Option<&str>, blank: &Frame) -> Vec<Frame> {
    if sites.is_empty() {
        return vec![Frame { function: symbol.map(demangle), ..blank.clone() }];
    }
    let last = sites.len() - 1;
    let of = |(i, site): (usize, Site)| {
        // Some functions (lambdas, those in anonymous namespaces) have only a short name in DWARF.
        let symbol = symbol.filter(|_| i == last);
        let name = match (&site.function, symbol) {
            (Some(name), Some(symbol)) if is_mangled(symbol) && !is_mangled(name) => Some(symbol),
            (Some(name), _) => Some(name.as_str()),
            (None, symbol) => symbol,
        };
        let function = name.map(demangle);
        Frame { function, file: site.file, line: site.line, inlined: i != last, ..blank.clone() }
    };
    sites.into_iter().enumerate().map(of).collect()
}
