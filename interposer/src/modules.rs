//! Which ELF object an address lies in, and its unwind tables.
//!
//! A module is met when an address of it stands on a stack: it is in use then, so that it can be read. Its tables are copied:
//! a thread that unwinds never reads a table that a dlclose elsewhere has unmapped. Nothing here takes the loader's lock:
//! `_dl_find_object` (glibc ≥ 2.35) is lock-free; older glibc is asked by dl_iterate_phdr.

use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use avleak_wire::layout as wire;
use framehop::{Unwinder as _, UnwinderNative};

use crate::elf::{Dynamic, Layout};
use crate::hot::HOT;
use crate::{arena, golang, known, python, segment, sys};

/// The unwinder of one module.
pub type Tables = UnwinderNative<&'static [u8], framehop::MustNotAllocateDuringUnwind>;

/// A module that was met.
pub struct Module {
    /// Index of its record in the segment.
    pub index: u32,
    /// Addresses.
    pub layout: Layout,
    /// `MODULE_*`.
    pub flags: u32,
    /// Its unwinder; without tables framehop falls back to frame pointers.
    pub tables: Tables,
    /// Where its Go code lies.
    pub go: golang::Code,
    /// The loader's own record, to tell the same file at the same place from another one.
    link: u64,
    /// The loader generation in which it was last seen loaded.
    verified: AtomicU32,
    gone: AtomicBool,
}

/// Sorted by start; replaced as a whole.
struct Snapshot(Vec<(u64, u64, &'static Module)>);

static SNAPSHOT: AtomicPtr<Snapshot> = AtomicPtr::new(core::ptr::null_mut());
/// Every module ever met, by index.
static ALL: [AtomicPtr<Module>; wire::MAX_MODULES as usize] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; wire::MAX_MODULES as usize];
static COUNT: AtomicU32 = AtomicU32::new(0);
/// Counts dlcloses; a module met before the last one is looked at again.
static LOADER_GENERATION: AtomicU32 = AtomicU32::new(1);
static ANY_GO: AtomicBool = AtomicBool::new(false);
static ADDING: AtomicBool = AtomicBool::new(false);

/// glibc's `struct dl_find_object` (dlfcn.h, 2.35).
#[repr(C)]
#[derive(Default)]
struct DlFindObject {
    flags: u64,
    map_start: u64,
    map_end: u64,
    link_map: u64,
    eh_frame: u64,
    reserved: [u64; 7],
}

type FindObject = unsafe extern "C" fn(*mut c_void, *mut DlFindObject) -> c_int;
static FIND_OBJECT: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// Looks for `_dl_find_object`; called before main.
pub fn prepare() {
    let found = crate::loader::symbol(libc::RTLD_DEFAULT, c"_dl_find_object");
    FIND_OBJECT.store(found, Ordering::Relaxed);
    DEBUGGERS_LIST.store(crate::loader::symbol(libc::RTLD_DEFAULT, c"_r_debug"), Ordering::Relaxed);
}

/// ld.so's `struct r_debug` (link.h), whose second word leads to the first object.
static DEBUGGERS_LIST: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
/// More objects than any process has loaded.
const MOST_OBJECTS: usize = 1 << 14;

/// glibc's `struct link_map`, its public part (link.h).
#[repr(C)]
struct LinkMap {
    base: u64,
    name: *const core::ffi::c_char,
    dynamic: u64,
}

struct Located {
    layout: Layout,
    link: u64,
    name: [u8; wire::MODULE_PATH_BYTES],
    name_len: usize,
}

impl Located {
    fn new(layout: Layout, link: u64) -> Self {
        Self { layout, link, name: [0; wire::MODULE_PATH_BYTES], name_len: 0 }
    }

    /// The path, its end where it is too long.
    fn name(&self) -> &[u8] {
        &self.name[..self.name_len]
    }

    /// Reads the loader's string at `address`.
    fn read_name(&mut self, address: u64) {
        let mut at = address;
        // The end of a long path is what tells: read on in windows.
        for _ in 0..10 {
            let got = sys::read_self(at, &mut self.name);
            match self.name[..got].iter().position(|&byte| byte == 0) {
                Some(end) => {
                    self.name_len = end;
                    return;
                }
                None if got == self.name.len() => at += got as u64,
                None => return,
            }
        }
    }

    fn set_name(&mut self, name: &CStr) {
        let name = name.to_bytes();
        let kept = &name[name.len().saturating_sub(self.name.len())..];
        self.name[..kept.len()].copy_from_slice(kept);
        self.name_len = kept.len();
    }
}

/// Asks the loader which object holds `address`. The object may vanish at any moment where `address` is no address in use.
fn locate(address: u64) -> Option<Located> {
    let find = FIND_OBJECT.load(Ordering::Relaxed);
    if find.is_null() {
        return locate_by_iteration(address);
    }
    let mut found = DlFindObject::default();
    // SAFETY: `_dl_find_object` of this C library with its documented signature; lock-free and async-signal-safe.
    let failed =
        unsafe { core::mem::transmute::<*mut c_void, FindObject>(find)(address as *mut c_void, &raw mut found) };
    if failed != 0 || found.link_map == 0 {
        return None;
    }
    let mut link = [0u64; 3];
    // SAFETY: any bytes are valid words; the slice covers exactly the array.
    let view = unsafe { core::slice::from_raw_parts_mut(link.as_mut_ptr().cast::<u8>(), size_of::<LinkMap>()) };
    if sys::read_self(found.link_map, view) != size_of::<LinkMap>() {
        return None;
    }
    let [base, name, _dynamic] = link;
    let Some(layout) = Layout::at(base, found.map_start) else { return locate_by_iteration(address) };
    let mut located = Located::new(layout, found.link_map);
    if name != 0 {
        located.read_name(name);
    }
    Some(located)
}

/// The same for glibc before 2.35, and for objects with unusual headers; dl_iterate_phdr's lock is only ever held for a moment.
fn locate_by_iteration(address: u64) -> Option<Located> {
    struct Search {
        address: u64,
        found: Option<Located>,
    }
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr passes a valid record and the pointer given below.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        // SAFETY: the record's own program headers.
        let headers = unsafe { core::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
        let layout = Layout::of(info.dlpi_addr, headers);
        if !(layout.start..layout.end).contains(&search.address) {
            return 0;
        }
        let mut located = Located::new(layout, layout.dynamic);
        if !info.dlpi_name.is_null() {
            // SAFETY: the loader's string.
            located.set_name(unsafe { CStr::from_ptr(info.dlpi_name) });
        }
        search.found = Some(located);
        1
    }
    if crate::is_forked() {
        // A thread of the parent may have held the loader's lock at the fork.
        return locate_by_list(address);
    }
    let mut search = Search { address, found: None };
    // SAFETY: the callback has the required signature and outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

/// The same without a lock, by the list that debuggers read, each word of it by way of the kernel: nobody changes it meanwhile, for this is a
/// forked child, whose other threads come later; where one of the parent's was at it, some objects are not found.
fn locate_by_list(address: u64) -> Option<Located> {
    let word = |at: u64| {
        let mut bytes = [0; 8];
        (at != 0 && sys::read_self(at, &mut bytes) == 8).then(|| u64::from_le_bytes(bytes))
    };
    let list = DEBUGGERS_LIST.load(Ordering::Relaxed) as u64;
    let mut link = word(list.checked_add(8)?)?;
    for _ in 0..MOST_OBJECTS {
        // struct link_map: base, name, dynamic section, next.
        let (base, next) = (word(link)?, word(link + 24)?);
        // A program that is linked to a fixed place has its headers elsewhere than at its base, which is 0.
        // SAFETY: a plain call.
        let start = if base == 0 { unsafe { libc::getauxval(libc::AT_PHDR) & !4095 } } else { base };
        if let Some(layout) = Layout::at(base, start)
            && (layout.start..layout.end).contains(&address)
        {
            let mut located = Located::new(layout, layout.dynamic);
            located.read_name(word(link + 8)?);
            return Some(located);
        }
        link = next;
    }
    None
}

/// Counts dlcloses.
pub fn unloads() -> u64 {
    LOADER_GENERATION.load(Ordering::Acquire).into()
}

/// A dlclose has ended: every module met so far is looked at again when it is next asked for, and whole stacks that were met are not known.
pub fn note_unload() {
    LOADER_GENERATION.fetch_add(1, Ordering::AcqRel);
    known::forget();
    HOT.table_generation.fetch_add(1, Ordering::AcqRel);
}

/// Module record `number` − 1 is one of FFmpeg's; 0 is no module.
pub fn is_ffmpeg(number: u32) -> bool {
    let Some(known) = (number as usize).checked_sub(1).and_then(|index| ALL.get(index)) else { return false };
    // SAFETY: null, or a module, which is never freed.
    unsafe { known.load(Ordering::Acquire).as_ref() }
        .is_some_and(|module| module.flags & (wire::MODULE_FFMPEG | wire::MODULE_LIBAVUTIL) != 0)
}

/// Some module has Go code.
#[inline(always)]
pub fn is_any_go() -> bool {
    ANY_GO.load(Ordering::Acquire)
}

/// Where the Go code of module record `number` - 1 lies.
#[inline(always)]
pub fn go_code(number: u32) -> golang::Code {
    let Some(known) = (number as usize).checked_sub(1).and_then(|index| ALL.get(index)) else { return (0, 0) };
    // SAFETY: null, or a module, which is never freed.
    unsafe { known.load(Ordering::Acquire).as_ref() }.map_or((0, 0), |module| module.go)
}

/// Changes whenever an answer of [`find`] may: caches of its answers are dropped then.
#[inline(always)]
pub fn table_generation() -> u64 {
    HOT.table_generation.load(Ordering::Acquire)
}

fn lookup(address: u64) -> Option<&'static Module> {
    let snapshot = SNAPSHOT.load(Ordering::Acquire);
    if snapshot.is_null() {
        return None;
    }
    // SAFETY: snapshots are never freed (the arena gives nothing back).
    let list = unsafe { &(*snapshot).0 };
    let after = list.partition_point(|entry| entry.0 <= address);
    let &(_, end, module) = list.get(after.checked_sub(1)?)?;
    (address < end).then_some(module)
}

/// The module that holds `address`, met for the first time if need be. Call only inside the guard.
pub fn find(address: u64) -> Option<&'static Module> {
    let generation = LOADER_GENERATION.load(Ordering::Acquire);
    match lookup(address) {
        Some(module) if module.verified.load(Ordering::Relaxed) == generation => Some(module),
        Some(module) => sys::keep_errno(|| verify_again(module, address, generation)),
        None => sys::keep_errno(|| meet(address, generation)),
    }
}

#[cold]
fn verify_again(module: &'static Module, address: u64, generation: u32) -> Option<&'static Module> {
    match locate(address) {
        // The loader reuses link maps' addresses, so that the build id has to agree too.
        Some(now) if now.link == module.link && now.layout.start == module.layout.start && same_file(module, &now) => {
            module.verified.store(generation, Ordering::Relaxed);
            Some(module)
        }
        _ => meet(address, generation),
    }
}

fn same_file(module: &Module, now: &Located) -> bool {
    let Some(header) = segment::get() else { return false };
    let (id, len) = now.layout.build_id();
    header.module_is(module.index, &id[..len], now.name())
}

/// The lock of this table; released even where a panic unwinds.
struct Lock;

impl Drop for Lock {
    fn drop(&mut self) {
        ADDING.store(false, Ordering::Release);
    }
}

/// Nobody will ever release the lock: a signal handler jumped out of its holder.
static STUCK: AtomicBool = AtomicBool::new(false);

/// Takes it. The holder never calls out, so that the wait is as long as the holder is kept from running: on a busy machine that can be
/// many milliseconds, and a module that is not met costs the stack. `None` after two seconds, and from then on at once.
fn lock() -> Option<Lock> {
    let mut until = 0;
    for round in 0_u64.. {
        if ADDING.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Some(Lock);
        }
        match round {
            _ if STUCK.load(Ordering::Relaxed) => return None,
            0..100 => core::hint::spin_loop(),
            100..1000 => sys::yield_now(),
            _ => {
                let now = sys::clock_ns(libc::CLOCK_MONOTONIC);
                if until == 0 {
                    until = now + 2_000_000_000;
                } else if now > until {
                    STUCK.store(true, Ordering::Relaxed);
                }
                sys::sleep_ns(100_000);
            }
        }
    }
    None
}

#[cold]
fn meet(address: u64, generation: u32) -> Option<&'static Module> {
    let located = locate(address)?;
    // Reads a file: not under the lock.
    let go = golang::code_of(&located.layout, located.name());
    let held = lock()?;
    let module = match lookup(address) {
        Some(module) if module.verified.load(Ordering::Relaxed) == generation => Some(module),
        _ => add(&located, go, generation),
    };
    drop(held);
    if let Some(module) = module
        && module.flags & (wire::MODULE_SELF | wire::MODULE_LOADER) == 0
    {
        // Its call slots are looked at under the loader's lock, right after this event.
        crate::control::note_unready();
    }
    module
}

/// Under the lock.
fn add(located: &Located, go: golang::Code, generation: u32) -> Option<&'static Module> {
    let segment = segment::get()?;
    let index = COUNT.load(Ordering::Relaxed);
    let (id, id_len) = located.layout.build_id();
    let id = &id[..id_len];
    let name = located.name();
    // The same file at the same place as before a dlclose: the old record serves, stacks stay the same.
    for known in 0..index {
        // SAFETY: modules are never freed.
        let Some(module) = (unsafe { ALL[known as usize].load(Ordering::Acquire).as_ref() }) else { continue };
        if module.layout.start == located.layout.start
            && module.layout.end == located.layout.end
            && segment.module_is(module.index, id, name)
            && module.link == located.link
        {
            module.verified.store(generation, Ordering::Relaxed);
            module.gone.store(false, Ordering::Relaxed);
            segment.module_loaded_again(module.index);
            replace_snapshot(module)?;
            return Some(module);
        }
    }
    if index >= wire::MAX_MODULES {
        segment.header().modules_exhausted.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    let flags = flags_of(located);
    let tables = tables_of(located);
    if go != (0, 0) {
        ANY_GO.store(true, Ordering::Release);
    }
    if !arena::has_room(1 << 20) {
        segment.header().modules_exhausted.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    let module: &'static Module = Box::leak(Box::new(Module {
        index,
        layout: located.layout,
        flags,
        tables,
        go,
        link: located.link,
        verified: AtomicU32::new(generation),
        gone: AtomicBool::new(false),
    }));
    ALL[index as usize].store(core::ptr::from_ref(module).cast_mut(), Ordering::Release);
    COUNT.store(index + 1, Ordering::Release);
    segment.write_module(index, &located.layout, flags, id, name);
    replace_snapshot(module)?;
    if let Some(dynamic) = Dynamic::of(&located.layout) {
        python::met(&located.layout, &dynamic, index, segment);
    }
    Some(module)
}

/// Puts `module` into the sorted table, in place of whatever lay at its addresses. Under the lock.
fn replace_snapshot(module: &'static Module) -> Option<()> {
    let old = SNAPSHOT.load(Ordering::Acquire);
    // SAFETY: never freed.
    let old: &[(u64, u64, &'static Module)] = if old.is_null() { &[] } else { unsafe { &(*old).0 } };
    if !arena::has_room((old.len() as u64 + 2) * 24 + 4096) {
        return None;
    }
    let mut list = Vec::with_capacity(old.len() + 1);
    for &entry in old {
        if entry.0 < module.layout.end && module.layout.start < entry.1 {
            if !core::ptr::eq(entry.2, module) {
                entry.2.gone.store(true, Ordering::Relaxed);
                if let Some(segment) = segment::get() {
                    segment.module_unloaded(entry.2.index);
                }
            }
        } else {
            list.push(entry);
        }
    }
    let at = list.partition_point(|entry| entry.0 < module.layout.start);
    list.insert(at, (module.layout.start, module.layout.end, module));
    SNAPSHOT.store(Box::into_raw(Box::new(Snapshot(list))), Ordering::Release);
    HOT.table_generation.fetch_add(1, Ordering::AcqRel);
    Some(())
}

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

fn flags_of(located: &Located) -> u32 {
    let mut flags = 0;
    let name = file_name(located.name());
    if defines_frame_alloc(located) {
        flags |= wire::MODULE_LIBAVUTIL | wire::MODULE_FFMPEG;
    }
    const FFMPEG: [&[u8]; 9] = [
        b"libavutil",
        b"libavcodec",
        b"libavformat",
        b"libavfilter",
        b"libavdevice",
        b"libswscale",
        b"libswresample",
        b"libpostproc",
        b"libavresample",
    ];
    if FFMPEG.iter().any(|prefix| name.starts_with(prefix)) {
        flags |= wire::MODULE_FFMPEG;
    }
    if (located.layout.start..located.layout.end).contains(&(find as *const () as u64)) {
        flags |= wire::MODULE_SELF;
    }
    if name.starts_with(b"ld-linux") || name.starts_with(b"ld64") {
        flags |= wire::MODULE_LOADER;
    }
    if name.starts_with(b"linux-vdso") {
        flags |= wire::MODULE_VDSO;
    }
    flags
}

/// The object brings av_frame_alloc: as a dynamic symbol, or, where FFmpeg is linked into it, in the full symbol table of its file.
fn defines_frame_alloc(located: &Located) -> bool {
    const NAME: &CStr = c"av_frame_alloc";
    Dynamic::of(&located.layout).is_some_and(|dynamic| dynamic.defines(NAME)) || links_frame_alloc(located, NAME)
}

/// The slow half: one look at the file, remembered for as long as the process lives.
fn links_frame_alloc(located: &Located, name: &CStr) -> bool {
    // What a file says: its object's key, with the answer in the lowest bit. The same place may be another file's after a dlclose; the key
    // holds the name too.
    // As many as there is room for: a host of many modules that all ask for aligned memory is not to wait for a look at each.
    static ANSWERS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
    // FFmpeg linked into the C library or the loader there is none, and those ask early.
    let file = file_name(located.name());
    if [&b"libc.so"[..], b"libc-2", b"ld-linux", b"ld64", b"linux-vdso"].iter().any(|prefix| file.starts_with(prefix))
        || (located.layout.start..located.layout.end).contains(&(find as *const () as u64))
        || located.name_len >= located.name.len()
    {
        return false;
    }
    let key =
        located.name().iter().fold(located.layout.start ^ located.layout.dynamic.rotate_left(32), |key, &byte| {
            (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }) | 2;
    for answer in &ANSWERS {
        let known = answer.load(Ordering::Relaxed);
        if known | 1 == key | 1 {
            return known & 1 != 0;
        }
        if known == 0 {
            let mut path = [0; wire::MODULE_PATH_BYTES + 1];
            path[..located.name_len].copy_from_slice(located.name());
            let is = CStr::from_bytes_until_nul(&path).is_ok_and(|path| crate::symtab::defines(path, name));
            // Two threads that ask at once write the same, or one of them asks again.
            let _ = answer.compare_exchange(0, (key & !1) | u64::from(is), Ordering::Relaxed, Ordering::Relaxed);
            return is;
        }
    }
    false
}

/// Copies .eh_frame_hdr and .eh_frame into our own memory and makes an unwinder of them.
fn tables_of(located: &Located) -> Tables {
    let mut tables = Tables::new();
    if let Some(sections) = copy_tables(&located.layout) {
        let layout = &located.layout;
        tables.add_module(framehop::Module::new(
            String::new(),
            layout.start..layout.end,
            layout.base,
            framehop::ExplicitModuleSectionInfo {
                base_svma: 0,
                eh_frame_hdr_svma: Some(sections.hdr_svma..sections.hdr_svma + sections.hdr.len() as u64),
                eh_frame_hdr: Some(sections.hdr),
                eh_frame_svma: Some(sections.frames_svma..sections.frames_svma + sections.frames.len() as u64),
                eh_frame: Some(sections.frames),
                ..Default::default()
            },
        ));
    }
    tables
}

struct Sections {
    hdr_svma: u64,
    hdr: &'static [u8],
    frames_svma: u64,
    frames: &'static [u8],
}

/// More than any real library has; a larger table would only eat the host's memory.
const LARGEST_TABLE: u64 = 24 << 20;

fn copy_tables(layout: &Layout) -> Option<Sections> {
    let (hdr_at, hdr_len) = layout.eh_frame_hdr;
    if hdr_at == 0 || !(8..LARGEST_TABLE).contains(&hdr_len) {
        return None;
    }
    let hdr = copy(hdr_at, hdr_len)?;
    // LSB Core, .eh_frame_hdr: version 1, encoding of the pointer to .eh_frame; every linker writes pcrel | sdata4.
    if hdr[0] != 1 || hdr[1] != 0x1b {
        return None;
    }
    let delta = i32::from_le_bytes(hdr[4..8].try_into().ok()?);
    let frames_at = (hdr_at + 4).wrapping_add_signed(i64::from(delta));
    if !(layout.start..layout.eh_segment_end).contains(&frames_at) {
        return None;
    }
    // Its end shows only by its content: the segment is copied, and what lies behind the table given back.
    let taken = (layout.eh_segment_end - frames_at).min(LARGEST_TABLE);
    let copied = copy(frames_at, taken)?;
    #[cfg(target_arch = "aarch64")]
    crate::aarch64::signing::forget(copied);
    let copied = &*copied;
    let frames = &copied[..length_of_frames(copied)];
    arena::shrink(copied.as_ptr().cast_mut(), copied.len(), frames.len());
    Some(Sections {
        hdr_svma: hdr_at.wrapping_sub(layout.base),
        hdr,
        frames_svma: frames_at.wrapping_sub(layout.base),
        frames,
    })
}

/// Walks the records' length words up to the terminator, or as far as whole records go.
fn length_of_frames(bytes: &[u8]) -> usize {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|word| Some(u32::from_le_bytes(word.try_into().ok()?)));
    let long = |at: usize| bytes.get(at..at + 8).and_then(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
    let mut at = 0;
    while let Some(length) = word(at) {
        let step = match length {
            0 => return at + 4,
            // A 64-bit record has its length in the next eight bytes.
            u32::MAX => long(at + 4).and_then(|length| usize::try_from(length.saturating_add(12)).ok()),
            length => Some(4 + length as usize),
        };
        match step {
            Some(step) if step <= bytes.len() - at => at += step,
            _ => break,
        }
    }
    at
}

fn copy(from: u64, len: u64) -> Option<&'static mut [u8]> {
    if !arena::has_room(len + (2 << 20)) {
        return None;
    }
    let to = arena::take(len as usize, 16);
    if to.is_null() {
        return None;
    }
    // SAFETY: just handed out, `len` bytes, for good.
    let bytes = unsafe { core::slice::from_raw_parts_mut(to, len as usize) };
    let got = sys::read_self(from, bytes);
    if got != bytes.len() {
        arena::shrink(to, bytes.len(), 0);
        return None;
    }
    Some(bytes)
}

/// `address` lies in an object that defines av_frame_alloc. Works while dormant, without a segment.
pub fn is_libavutil(address: u64) -> bool {
    // Objects that were asked about and are none, in one word each: first page, and pages above. Forgotten when something is loaded or
    // unloaded.
    static OTHERS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
    static SINCE: AtomicU64 = AtomicU64::new(0);
    let pack = |start: u64, end: u64| (start >> 12) << 24 | ((end - start).div_ceil(4096)).min((1 << 24) - 1);
    let generation =
        u64::from(LOADER_GENERATION.load(Ordering::Relaxed)) << 1 | u64::from(crate::control::load_pending());
    if SINCE.swap(generation, Ordering::Relaxed) != generation {
        for other in &OTHERS {
            other.store(0, Ordering::Relaxed);
        }
    }
    let page = address >> 12;
    for other in &OTHERS {
        let known = other.load(Ordering::Relaxed);
        let first = known >> 24;
        if known != 0 && (first..first + (known & ((1 << 24) - 1))).contains(&page) {
            return false;
        }
    }
    let Some(located) = locate(address) else { return false };
    let is = defines_frame_alloc(&located);
    if !is {
        OTHERS[(located.layout.start >> 12) as usize % OTHERS.len()]
            .store(pack(located.layout.start, located.layout.end), Ordering::Relaxed);
    }
    is
}

/// `address` lies in the dynamic loader.
pub fn is_loader(address: u64) -> bool {
    locate(address).is_some_and(|located| {
        let name = file_name(located.name());
        name.starts_with(b"ld-linux") || name.starts_with(b"ld64")
    })
}

/// Before the first arming of this process, also of a forked child: whoever held the lock may not exist here.
pub fn start_over() {
    STUCK.store(false, Ordering::Relaxed);
    ADDING.store(false, Ordering::Release);
}
