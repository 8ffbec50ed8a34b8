//! The second witness: the call slots (JUMP_SLOT, GLOB_DAT) of every module that lead to one of FFmpeg's functions are filled with
//! a thunk for the very address that ld.so bound.
//!
//! A slot that is not bound yet leads to its own module's PLT. Its thunk calls on there; ld.so then binds the slot as it would,
//! and the thunk takes the bound address over and puts itself back. So every call is seen, and always reaches the function that
//! ld.so chose, for any number of FFmpegs in the process.
//!
//! Slots of a module that was loaded with RTLD_DEEPBIND lead to the C library's malloc directly; they are pointed at our hooks.

#[cfg(target_arch = "x86_64")]
use core::arch::global_asm;
use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use avleak_wire::layout as wire;

use crate::elf::{Dynamic, Layout, R_GLOB_DAT, R_JUMP_SLOT, Slot};
use crate::modules::Module;
#[cfg(target_arch = "x86_64")]
use crate::thread;
use crate::unwind::Registers;
use crate::{arm, control, recorder, segment, stubs, sys};

const THUNKS: usize = 2048;

// That of AArch64 is in aarch64/thunks.rs.
//
// 16 bytes each: which entry, and on to the common part. No function behind these has more than two arguments.
//
// The common part counts the call in this thread's ring and jumps on to the real function, so that nothing of ours is on the stack. It
// leaves that to the handler where the thread has no ring of the present arming, the slot is not bound yet, or more than a number is
// wanted. It uses only registers that a call may change and that carry no argument here (rdx carries the index).
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .text.avleak_thunks,\"ax\",@progbits",
    ".balign 16",
    ".hidden avleak_thunks",
    ".globl avleak_thunks",
    ".type avleak_thunks,@function",
    "avleak_thunks:",
    ".set avleak_thunk_index, 0",
    ".rept 2048",
    ".balign 16",
    "endbr64",
    "mov edx, avleak_thunk_index",
    "jmp 77f",
    ".set avleak_thunk_index, avleak_thunk_index + 1",
    ".endr",
    "77:",
    "mov r11, qword ptr [rip + avleak_thread_slot@GOTTPOFF]",
    "mov r10d, dword ptr fs:[r11 + {generation}]",
    "test r10d, r10d",
    "je 78f",
    "cmp r10d, dword ptr [rip + {armed}]",
    "jne 78f",
    "mov r10, qword ptr fs:[r11 + {calls}]",
    "test r10, r10",
    "je 78f",
    "mov r11d, edx",
    "shl r11, 5",
    "lea rax, [rip + {entries}]",
    "add r11, rax",
    "cmp byte ptr [r11 + {lazy}], 0",
    "jne 78f",
    "mov eax, dword ptr [r11 + {api}]",
    "mov ecx, dword ptr [rip + {count_only}]",
    "bt ecx, eax",
    "jnc 78f",
    "add qword ptr [r10 + 8 * rax], 1",
    "jmp qword ptr [r11 + {real}]",
    "78:",
    "mov rcx, rsp",
    "mov r8, rbp",
    "jmp {called}",
    ".popsection",
    called = sym called,
    armed = sym control::ARMED_PAGE,
    entries = sym ENTRIES,
    count_only = sym recorder::COUNT_ONLY,
    generation = const thread::SLOT_GENERATION,
    calls = const thread::SLOT_CALLS,
    lazy = const core::mem::offset_of!(Entry, lazy),
    api = const core::mem::offset_of!(Entry, api),
    real = const core::mem::offset_of!(Entry, real),
);

unsafe extern "C" {
    #[link_name = "avleak_thunks"]
    static THUNK_CODE: [[u8; 16]; THUNKS];
}

/// What thunk number i stands for. 32 bytes: the thunks' assembly counts on it.
#[repr(C, align(32))]
pub struct Entry {
    slot: AtomicU64,
    /// The function, or the module's own PLT as long as the slot is not bound.
    pub real: AtomicU64,
    pub api: AtomicU32,
    /// Relocation type of the slot.
    kind: AtomicU32,
    pub lazy: AtomicBool,
}

const _: () = assert!(size_of::<Entry>() == 32);

pub static ENTRIES: [Entry; THUNKS] = [const {
    Entry {
        slot: AtomicU64::new(0),
        real: AtomicU64::new(0),
        api: AtomicU32::new(0),
        kind: AtomicU32::new(0),
        lazy: AtomicBool::new(false),
    }
}; THUNKS];
static USED: AtomicU32 = AtomicU32::new(0);
static SCANNING: AtomicBool = AtomicBool::new(false);
static PATCHED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

fn thunk(index: usize) -> u64 {
    (&raw const THUNK_CODE) as u64 + 16 * index as u64
}

fn is_thunk(address: u64) -> bool {
    (thunk(0)..thunk(THUNKS)).contains(&address)
}

const FRAME_ALLOC: usize = 0;
const FRAME_FREE: usize = 1;
const FRAME_CLONE: usize = 2;
/// Index of av_packet_alloc in [`wire::API_NAMES`].
pub const PACKET_ALLOC: usize = 8;
/// Index of av_packet_free.
pub const PACKET_FREE: usize = 9;

/// A call through a patched slot that is more than counted.
pub unsafe extern "C" fn called(first: u64, second: u64, index: u64, sp: crate::entry::Entry, bp: u64) -> u64 {
    let entry = &ENTRIES[index as usize & (THUNKS - 1)];
    let real = entry.real.load(Ordering::Acquire);
    let api = entry.api.load(Ordering::Relaxed) as usize;
    // Asked before the call: another thread may take the binding over meanwhile, and ld.so may write the slot once more for this one.
    let lazy = entry.lazy.load(Ordering::Relaxed);
    if control::armed() == 0 && control::can_arm() {
        arm::by_call();
    }
    let generation = control::armed();
    // SAFETY: the thunk passed its own stack pointer at entry.
    let caller = unsafe { Registers::at_entry(sp, bp) };
    let makes = matches!(api, FRAME_ALLOC | FRAME_CLONE | PACKET_ALLOC);
    if generation != 0 && !makes {
        let freed = match api {
            // SAFETY: the argument of av_frame_free and av_packet_free: null, or the address of a pointer.
            FRAME_FREE | PACKET_FREE if first != 0 => unsafe { *(first as *const u64) },
            _ => 0,
        };
        if freed != 0 && recorder::COUNT_ONLY.load(Ordering::Relaxed) >> api & 1 == 0 {
            recorder::freed_by_call(generation, caller, api, recorder::kind_freed(api), freed);
        } else {
            recorder::called(generation, caller, api);
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: what ld.so put into the slot (or its own way there), with the host's own arguments.
    let result = unsafe {
        let slot = entry.slot.load(Ordering::Relaxed);
        crate::aarch64::thunks::call(first, second, slot, real)
    };
    #[cfg(target_arch = "x86_64")]
    // SAFETY: what ld.so put into the slot (or its own way there), with the host's own arguments.
    let result = unsafe {
        core::mem::transmute::<*const c_void, extern "C" fn(u64, u64) -> u64>(real as *const c_void)(first, second)
    };
    if generation != 0 && makes && control::armed() == generation {
        if result == 0 {
            recorder::called(generation, caller, api);
        } else {
            recorder::made_by_call(generation, caller, api, recorder::kind_made(api), result);
        }
    }
    if lazy {
        take_over_binding(entry, index as usize & (THUNKS - 1), real);
    }
    result
}

/// ld.so has bound a lazy slot during the call: keep the address, put the thunk back.
#[cold]
fn take_over_binding(entry: &Entry, index: usize, plt: u64) {
    // SAFETY: the module that holds the slot is in the call that just returned to it.
    let slot = unsafe { &*(entry.slot.load(Ordering::Relaxed) as *const AtomicU64) };
    let bound = slot.load(Ordering::Acquire);
    if bound == thunk(index) || bound == plt || is_thunk(bound) {
        return;
    }
    entry.real.store(bound, Ordering::Release);
    // Release: who sees it false sees the address above.
    entry.lazy.store(false, Ordering::Release);
    // Lazy slots are never in the part that is read-only after relocation.
    let _ = slot.compare_exchange(bound, thunk(index), Ordering::AcqRel, Ordering::Relaxed);
}

/// Modules that were looked at: key, and whether they have slots of interest.
static SEEN: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];
/// Start addresses of modules that call FFmpeg directly.
static USERS: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];

/// A free made from this module is worth its stack.
pub fn is_libav_or_user(module: &Module) -> bool {
    // av_frame_free ends with a tail call: its free returns into the thunk's handler, that is, to us.
    module.flags & (wire::MODULE_FFMPEG | wire::MODULE_SELF) != 0 || is_user(module.layout.start)
}

fn is_user(start: u64) -> bool {
    USERS.iter().map(|user| user.load(Ordering::Relaxed)).take_while(|&user| user != 0).any(|user| user == start)
}

fn note_user(start: u64) {
    if is_user(start) {
        return;
    }
    if let Some(free) = USERS.iter().find(|user| user.load(Ordering::Relaxed) == 0) {
        free.store(start, Ordering::Relaxed);
    }
}

/// In a forked child: whoever scanned may not exist here.
pub fn start_over() {
    SCANNING.store(false, Ordering::Release);
}

/// Looks at every loaded module that was not looked at yet, and again at those with slots of interest.
pub fn scan_loaded() {
    if SCANNING.swap(true, Ordering::Acquire) {
        // Somebody is at it; come back.
        control::note_unready();
        return;
    }
    let mut scan = Scan { loads: None };
    // SAFETY: the callback has the required signature. dl_iterate_phdr's lock is only ever held for a moment.
    let cut_short = unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut scan).cast()) } != 0;
    if let Some((added, removed)) = scan.loads
        && !cut_short
    {
        SCANNED.0.store(added, Ordering::Relaxed);
        SCANNED.1.store(removed, Ordering::Relaxed);
    }
    SCANNING.store(false, Ordering::Release);
    publish_counts();
}

/// One look at all modules.
struct Scan {
    /// How many were ever loaded and unloaded, by the first record; `None` before it.
    loads: Option<(u64, u64)>,
}

/// The same counts at the last whole look. Modules are met one by one, and each asks for a look: where nothing was loaded or unloaded since
/// and nothing was left over then, there is nothing new.
static SCANNED: (AtomicU64, AtomicU64) = (AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX));
/// The last whole look met a slot that was not bound yet.
static UNSETTLED: AtomicBool = AtomicBool::new(false);

/// The first record of a look: whether it may end here.
fn is_nothing_new(info: &libc::dl_phdr_info, size: usize, scan: &mut Scan) -> bool {
    if scan.loads.is_some() {
        return false;
    }
    // Before glibc 2.4 there are no counts.
    let counts = size >= core::mem::offset_of!(libc::dl_phdr_info, dlpi_subs) + size_of_val(&info.dlpi_subs);
    let loads = if counts { (info.dlpi_adds, info.dlpi_subs) } else { (u64::MAX, u64::MAX) };
    scan.loads = Some(loads);
    let known = (SCANNED.0.load(Ordering::Relaxed), SCANNED.1.load(Ordering::Relaxed));
    let unsettled = UNSETTLED.swap(false, Ordering::Relaxed);
    counts && known == loads && !unsettled
}

fn publish_counts() {
    if let Some(segment) = segment::get() {
        segment.header().slots_patched.store(PATCHED.load(Ordering::Relaxed), Ordering::Relaxed);
        segment.header().slots_refused.store(REFUSED.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, size: usize, scan: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr passes a valid record and the pointer that [`scan_loaded`] gave.
    if is_nothing_new(unsafe { &*info }, size, unsafe { &mut *scan.cast::<Scan>() }) {
        return 1;
    }
    // SAFETY: a valid record with its own headers and name.
    let (layout, name) = unsafe {
        let info = &*info;
        let headers = core::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize);
        let name = if info.dlpi_name.is_null() { c"" } else { CStr::from_ptr(info.dlpi_name) };
        (Layout::of(info.dlpi_addr, headers), name)
    };
    let file = name.to_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let own = visit as *const () as u64;
    if (layout.start..layout.end).contains(&own)
        || [&b"ld-linux"[..], b"libc.so", b"libpthread", b"linux-vdso"].iter().any(|prefix| file.starts_with(prefix))
    {
        return 0;
    }
    let key = name.to_bytes().iter().fold(layout.start ^ layout.dynamic.rotate_left(32), |key, &byte| {
        (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }) | 2;
    let at = key as usize >> 4;
    let mut free = None;
    for step in 0..64 {
        let seen = &SEEN[(at + step) % SEEN.len()];
        match seen.load(Ordering::Relaxed) {
            0 => {
                free = Some(seen);
                break;
            }
            known if known | 1 == key | 1 => {
                if known & 1 != 0 {
                    // It has slots of interest: perhaps it was loaded anew.
                    patch(&layout);
                }
                return 0;
            }
            _ => (),
        }
    }
    match patch(&layout) {
        Found::Unready if UNREADY.fetch_add(1, Ordering::Relaxed) < MOST_UNREADY => {
            UNSETTLED.store(true, Ordering::Relaxed);
            control::note_unready();
        }
        found => {
            if let Some(free) = free {
                free.store((key & !1) | u64::from(!matches!(found, Found::Nothing)), Ordering::Relaxed);
            }
        }
    }
    0
}

/// How often a module that the loader is still working on was met; past the limit it is taken for what it is.
static UNREADY: AtomicU32 = AtomicU32::new(0);
const MOST_UNREADY: u32 = 1000;

enum Found {
    Nothing,
    Slots,
    /// The loader has not relocated it yet.
    Unready,
}

/// Fills the module's slots of interest. Under SCANNING, and inside dl_iterate_phdr, which keeps the module mapped.
fn patch(layout: &Layout) -> Found {
    // SAFETY: shown by dl_iterate_phdr at this moment.
    let Some(dynamic) = (unsafe { Dynamic::of_mapped(layout) }) else { return Found::Nothing };
    let (mut slots, mut unready) = (false, false);
    let take = |slot: Slot| {
        if !slot.begins_with(*b"av_") {
            if let Some(hook) = hook_past_us(&slot)
                && write(layout, slot.at, slot.bound(), hook)
            {
                PATCHED.fetch_add(1, Ordering::Relaxed);
                // To be looked at again: it may come back to its old place after a dlclose.
                slots = true;
            }
            return;
        }
        let name = slot.name();
        if let Some(api) = wire::API_NAMES.iter().position(|api| api.as_bytes() == name.to_bytes()) {
            slots = true;
            let bound = slot.bound();
            if bound < 4096 {
                // Null: not relocated yet, or a weak symbol without a definition.
                UNSETTLED.store(true, Ordering::Relaxed);
                return;
            }
            if slot.kind == R_JUMP_SLOT && bound < layout.start && bound < layout.end - layout.start {
                // A link-time address: the loader has not been here yet.
                unready = true;
                return;
            }
            if slot.kind == R_GLOB_DAT && is_canonical_plt(layout, name, bound) {
                return;
            }
            if !is_thunk(bound) {
                note_user(layout.start);
                let lazy = (layout.start..layout.end).contains(&bound) && !dynamic.defines(name);
                point_at_thunk(layout, slot.at, slot.kind, bound, api, lazy);
            }
        }
    };
    // SAFETY: shown by dl_iterate_phdr at this moment.
    unsafe { dynamic.each_slot(take) };
    match (unready, slots) {
        (true, _) => Found::Unready,
        (false, true) => Found::Slots,
        (false, false) => Found::Nothing,
    }
}

/// The hook for a slot that holds what our hook itself would call: the slot was bound past us (RTLD_DEEPBIND). Told by the address, for the
/// names of all slots of all modules are many, and hardly one of them matters.
#[inline(always)]
fn hook_past_us(slot: &Slot) -> Option<u64> {
    use crate::real;
    let family = [
        (real::MALLOC, c"malloc"),
        (real::CALLOC, c"calloc"),
        (real::REALLOC, c"realloc"),
        (real::FREE, c"free"),
        (real::POSIX_MEMALIGN, c"posix_memalign"),
        (real::MEMALIGN, c"memalign"),
        (real::ALIGNED_ALLOC, c"aligned_alloc"),
    ];
    let bound = slot.bound();
    if bound == 0 || family.iter().all(|(real, _)| real.address() as u64 != bound) {
        return None;
    }
    // Two names may lead to one address.
    let name = slot.name();
    let known = family.iter().any(|(real, known)| *known == name && real.address() as u64 == bound);
    let hooks = stubs::malloc_family();
    hooks.iter().find(|(hooked, _)| known && *hooked == name).map(|&(_, hook)| hook).filter(|&hook| hook != bound)
}

/// The function's address in a program at a fixed address is that of its own PLT entry: a call through there meets the program's slot.
fn is_canonical_plt(layout: &Layout, name: &CStr, bound: u64) -> bool {
    // The program's own addresses, where it is no PIE: (start, end), end 0 where it is one.
    static PROGRAM: (AtomicU64, AtomicU64) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
        // SAFETY: a valid record with its own headers; the first one is the program's.
        let layout = unsafe {
            let info = &*info;
            Layout::of(info.dlpi_addr, core::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize))
        };
        PROGRAM.0.store(layout.start, Ordering::Relaxed);
        PROGRAM.1.store(if layout.base == 0 { layout.end } else { 0 }, Ordering::Relaxed);
        1
    }
    if PROGRAM.1.load(Ordering::Relaxed) == u64::MAX {
        // SAFETY: the callback has the required signature.
        unsafe { libc::dl_iterate_phdr(Some(first), core::ptr::null_mut()) };
    }
    let (start, end) = (PROGRAM.0.load(Ordering::Relaxed), PROGRAM.1.load(Ordering::Relaxed));
    if !(start..end).contains(&bound) || layout.start == start {
        return false;
    }
    // A program that defines the function (FFmpeg linked in and exported) is no detour.
    let program = Layout::at(0, start);
    program.and_then(|layout| Dynamic::of(&layout)).is_none_or(|dynamic| dynamic.find(name) != Some(bound))
}

fn point_at_thunk(layout: &Layout, at: u64, kind: u32, bound: u64, api: usize, lazy: bool) {
    // A module that came back to its old place finds its old entry. Where the slot's value may have been copied (a function pointer
    // that outlives its module), an entry stays what it was.
    let used = (USED.load(Ordering::Relaxed) as usize).min(THUNKS);
    let serves = |entry: &Entry| {
        let same = entry.api.load(Ordering::Relaxed) == api as u32 && entry.real.load(Ordering::Relaxed) == bound;
        let only_called = kind == R_JUMP_SLOT && entry.kind.load(Ordering::Relaxed) == R_JUMP_SLOT;
        entry.slot.load(Ordering::Relaxed) == at && (only_called || same && entry.kind.load(Ordering::Relaxed) == kind)
    };
    let index = match ENTRIES[..used].iter().position(serves) {
        Some(index) => index,
        None if used < THUNKS => {
            USED.store(used as u32 + 1, Ordering::Relaxed);
            used
        }
        None => {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            return;
        }
    };
    let entry = &ENTRIES[index];
    entry.slot.store(at, Ordering::Relaxed);
    entry.api.store(api as u32, Ordering::Relaxed);
    entry.kind.store(kind, Ordering::Relaxed);
    entry.lazy.store(lazy, Ordering::Relaxed);
    entry.real.store(bound, Ordering::Release);
    if write(layout, at, bound, thunk(index)) {
        PATCHED.fetch_add(1, Ordering::Relaxed);
    } else {
        REFUSED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Replaces `old` by `new` in the slot, which may lie in the part that ld.so made read-only.
fn write(layout: &Layout, at: u64, old: u64, new: u64) -> bool {
    let (start, bytes) = layout.relro;
    let page = sys::page_bytes();
    let protected = (start & !(page - 1))..((start + bytes) & !(page - 1));
    if !protected.contains(&at) {
        // SAFETY: a slot of a mapped module that stays writable for the loader's own lazy binding.
        return unsafe { &*(at as *const AtomicU64) }
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
    }
    // The page may still be writable because the loader has not finished with it: then it must stay so. The kernel's own write
    // tells: it fails on a read-only page, and RELRO is never taken back.
    match sys::write_self(at, new) {
        Ok(()) => return true,
        Err(libc::EFAULT) => (),
        Err(_) => return false,
    }
    let (page, bytes) = ((at & !(page - 1)) as *mut c_void, page as usize);
    // SAFETY: the page belongs to a mapped module, was read-only, and gets that back. A slot never crosses a page.
    unsafe {
        if libc::mprotect(page, bytes, libc::PROT_READ | libc::PROT_WRITE) != 0 {
            return false;
        }
        let done = (*(at as *const AtomicU64)).compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        libc::mprotect(page, bytes, libc::PROT_READ);
        done
    }
}
