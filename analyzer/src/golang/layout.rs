//! Where the fields lie that avleak reads of Go's runtime: a table by version, and DWARF for versions that are not in it.
//!
//! The table was read off the DWARF of programs built by Go 1.22.10, 1.23.2, 1.24.11, 1.25.5, 1.26.6 and 1.27.3 for linux/amd64; a test
//! compares it with the DWARF of the Go at hand.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use addr2line::gimli;
use object::{Object, ObjectSection};

use crate::symbols::go_image::Version;

/// Offsets in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// `runtime.mspan`.
    pub span: SpanLayout,
    /// `runtime.g`.
    pub goroutine: GoroutineLayout,
    /// `runtime.special`.
    pub special: SpecialLayout,
    /// `m.g0`.
    pub m_g0: u64,
}

/// `runtime.mspan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanLayout {
    /// First address.
    pub start: u64,
    /// Pages of 8 KiB.
    pub pages: u64,
    /// Objects below this index are in use (u16).
    pub free_index: u64,
    /// How many objects fit (u16).
    pub elements: u64,
    /// As `free_index`, for the collector (u16).
    pub free_index_for_scan: u64,
    /// Address of a bitmap of what else is in use.
    pub alloc_bits: u64,
    /// Bit 0: holds no pointers (u8).
    pub class: u64,
    /// 0 dead, 1 objects, 2 stacks and the like (u8).
    pub state: u64,
    /// Bytes of an object.
    pub element: u64,
    /// A list of `runtime.special`.
    pub specials: u64,
}

/// `runtime.g`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoroutineLayout {
    /// `m`.
    pub m: u64,
    /// `sched`, whose first words are sp, pc, g.
    pub sched: u64,
    /// `sched.ctxt`.
    pub context: u64,
    /// `sched.bp`.
    pub bp: u64,
    /// `syscallsp`.
    pub syscall_sp: u64,
    /// `atomicstatus` (u32).
    pub status: u64,
    /// `goid`.
    pub id: u64,
    /// `gopc`: the go statement.
    pub created_at: u64,
    /// `startpc`.
    pub start: u64,
}

/// `runtime.special`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialLayout {
    /// Bytes of `offset`, which follows `next`.
    pub offset_bytes: usize,
    /// Of `kind` (u8).
    pub kind: u64,
    /// Kinds that keep their object, or what their function needs: finalizers and cleanups.
    pub keeping: &'static [u8],
}

const SPAN: SpanLayout = SpanLayout {
    start: 24,
    pages: 32,
    free_index: 48,
    elements: 50,
    free_index_for_scan: 52,
    alloc_bits: 64,
    class: 98,
    state: 99,
    element: 104,
    specials: 128,
};

/// A `gobuf` with or without `ret`, by what lies behind it.
const fn goroutine(syscall_sp: u64, status: u64, created_at: u64) -> GoroutineLayout {
    GoroutineLayout {
        m: 48,
        sched: 56,
        context: 80,
        bp: syscall_sp - 8,
        syscall_sp,
        status,
        id: status + 8,
        created_at,
        start: created_at + 16,
    }
}

const SHORT: SpecialLayout = SpecialLayout { offset_bytes: 2, kind: 10, keeping: &[1] };
const LONG: SpecialLayout = SpecialLayout { offset_bytes: 8, kind: 16, keeping: &[1, 6] };
const LONG_2: SpecialLayout = SpecialLayout { offset_bytes: 8, kind: 16, keeping: &[2, 7] };

const TABLE: [(u32, GoroutineLayout, SpecialLayout); 6] = [
    (22, goroutine(112, 144, 280), SHORT),
    (23, goroutine(112, 152, 288), SHORT),
    (24, goroutine(112, 152, 288), LONG),
    (25, goroutine(104, 144, 280), LONG_2),
    (26, goroutine(104, 144, 288), LONG_2),
    (27, goroutine(104, 144, 288), LONG_2),
];

impl Layout {
    /// Of a version that the table has.
    pub fn of(version: Version) -> Option<Self> {
        let row = TABLE.iter().find(|row| version.major == 1 && row.0 == version.minor)?;
        Some(Self { span: SPAN, goroutine: row.1, special: row.2, m_g0: 0 })
    }

    /// From the debug information of `file`; `None` where it has none, or lacks a field. Kinds of specials are no part of it: they are
    /// those of the newest version in the table.
    pub fn from_dwarf(file: &File) -> Option<Self> {
        // What the library makes of a corrupt file is not known: a panic of its costs this one answer.
        let fields = catch_unwind(AssertUnwindSafe(|| Fields::read(file))).ok()??;
        let offset = |name: &str, field: &str| fields.0.iter().find(|f| f.0 == name && f.1 == field).map(|f| f.2);
        let span = |field: &str| offset("runtime.mspan", field);
        let g = |field: &str| offset("runtime.g", field);
        let buffer = |field: &str| Some(g("sched")? + offset("runtime.gobuf", field)?);
        let newest = TABLE[TABLE.len() - 1].2;
        // These are read as a run of words.
        if buffer("sp")? != g("sched")? || buffer("pc")? != g("sched")? + 8 || buffer("g")? != g("sched")? + 16 {
            return None;
        }
        let kind = offset("runtime.special", "kind")?;
        Some(Self {
            span: SpanLayout {
                start: span("startAddr")?,
                pages: span("npages")?,
                free_index: span("freeindex")?,
                elements: span("nelems")?,
                free_index_for_scan: span("freeIndexForScan")?,
                alloc_bits: span("allocBits")?,
                class: span("spanclass")?,
                state: span("state")?,
                element: span("elemsize")?,
                specials: span("specials")?,
            },
            goroutine: GoroutineLayout {
                m: g("m")?,
                sched: g("sched")?,
                context: buffer("ctxt")?,
                bp: buffer("bp")?,
                syscall_sp: g("syscallsp")?,
                status: g("atomicstatus")?,
                id: g("goid")?,
                created_at: g("gopc")?,
                start: g("startpc")?,
            },
            special: SpecialLayout { offset_bytes: usize::try_from(kind.checked_sub(8)?).ok()?.min(8), kind, ..newest },
            m_g0: offset("runtime.m", "g0")?,
        })
    }
}

/// Members of the runtime's structs: struct, member, offset.
struct Fields(Vec<(&'static str, String, u64)>);

const STRUCTS: [&str; 5] = ["runtime.mspan", "runtime.g", "runtime.gobuf", "runtime.special", "runtime.m"];
/// Largest debug section that is read, bytes.
const LARGEST: u64 = 1 << 30;

impl Fields {
    fn read(file: &File) -> Option<Self> {
        // Read, not mapped: a file that is cut meanwhile must not end this process.
        let bytes = std::fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        let object = object::File::parse(&*bytes).ok()?;
        let load = |id: gimli::SectionId| -> Result<_, gimli::Error> {
            let section = object.section_by_name(id.name()).filter(|section| section.size() <= LARGEST);
            Ok(section.and_then(|section| section.uncompressed_data().ok()).unwrap_or_default())
        };
        let sections = gimli::DwarfSections::load(load).ok()?;
        let dwarf = sections.borrow(|data| gimli::EndianSlice::new(data, gimli::LittleEndian));
        let mut found = Vec::new();
        let mut left = STRUCTS.to_vec();
        let mut units = dwarf.units();
        while let Ok(Some(header)) = units.next() {
            let Ok(unit) = dwarf.unit(header) else { continue };
            let mut entries = unit.entries();
            let mut within: Option<(isize, &'static str)> = None;
            while let Ok(Some(entry)) = entries.next_dfs() {
                let depth = entry.depth();
                if within.is_some_and(|(at, _)| depth <= at) {
                    within = None;
                }
                let name = || {
                    let name = dwarf.attr_string(&unit, entry.attr_value(gimli::DW_AT_name)?).ok()?;
                    Some(name.to_string_lossy().into_owned())
                };
                match (entry.tag(), within) {
                    (gimli::DW_TAG_structure_type, None) => {
                        let place = name().and_then(|name| left.iter().position(|wanted| **wanted == name));
                        within = place.map(|place| (depth, left.swap_remove(place)));
                    }
                    (gimli::DW_TAG_member, Some((at, of))) if depth == at + 1 => {
                        let offset = entry.attr_value(gimli::DW_AT_data_member_location);
                        if let (Some(name), Some(offset)) = (name(), offset.and_then(|value| value.udata_value())) {
                            found.push((of, name, offset));
                        }
                    }
                    _ => {}
                }
            }
            if left.is_empty() {
                break;
            }
        }
        left.is_empty().then_some(Self(found))
    }
}
