//! Go's table of functions and lines (`.gopclntab`): every Go program carries it, stripped or not, for its own tracebacks.
//!
//! The format is that of Go 1.18 and later (cmd/link/internal/ld/pcln.go, runtime/symtab.go, runtime/symtabinl.go): a header, then names,
//! files, tables of deltas and records of functions, all reached by offsets. Nothing of it is trusted: every read is bounded.

/// Go 1.18 and 1.19, and Go 1.20 and later: there a function's record has the line at which it starts.
const MAGICS: [(u32, usize); 2] = [(0xffff_fff0, 40), (0xffff_fff1, 44)];
/// Index of the tables that say which inlined call an instruction belongs to (internal/abi/symtab.go).
const PCDATA_INL_TREE_INDEX: usize = 2;
const FUNCDATA_INL_TREE: usize = 3;
/// Bytes of an inlined call's record since Go 1.20.
const INLINED_CALL: usize = 16;
/// Most functions shown as inlined at one address.
const MOST_INLINED: usize = 64;
/// Longest name or path that is taken.
const LONGEST: usize = 4096;

/// A function at an address, innermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoSite {
    /// As Go writes it: `main.(*Server).decode`.
    pub function: String,
    /// Source file.
    pub file: Option<String>,
    /// Source line.
    pub line: Option<u32>,
}

/// The table of one program or library.
#[derive(Debug, Clone, Default)]
pub struct LineTable {
    bytes: Vec<u8>,
    functions: usize,
    record: usize,
    names: usize,
    units: usize,
    files: usize,
    values: usize,
    records: usize,
    /// `go:func.*`: what the records' own data is found in; empty where it is not known, and then inlined calls are not told.
    data: Vec<u8>,
}

impl LineTable {
    /// Of the section's bytes; `None` where this is no table that is understood.
    pub fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut table = Self { bytes, ..Self::default() };
        let magic = table.u32(0)?;
        table.record = MAGICS.iter().find(|known| known.0 == magic)?.1;
        if table.bytes.get(4..8)? != [0, 0, 1, 8] {
            return None;
        }
        let word = |at| Some(u64::from_le_bytes(*table.bytes.get(at..)?.first_chunk()?));
        let place =
            |at| word(at).and_then(|word| usize::try_from(word).ok()).filter(|&place| place < table.bytes.len());
        let (names, units, files, values, records) = (place(32)?, place(40)?, place(48)?, place(56)?, place(64)?);
        table.functions = usize::try_from(word(8)?).ok().filter(|&count| count < table.bytes.len() / 8)?;
        (table.names, table.units, table.files, table.values, table.records) = (names, units, files, values, records);
        Some(table)
    }

    /// With the bytes of `go:func.*`.
    pub fn with_data(mut self, data: Vec<u8>) -> Self {
        self.data = data;
        self
    }

    /// Where the table of names begins: the second word of a program's `moduledata` leads there.
    pub fn names_offset(&self) -> u64 {
        self.names as u64
    }

    /// The functions at `offset` from the start of the Go code: inlined ones first. Empty in no function.
    pub fn sites(&self, offset: u64) -> Vec<GoSite> {
        u32::try_from(offset).ok().and_then(|offset| self.sites_at(offset)).unwrap_or_default()
    }

    /// The function that holds `offset`, not what is inlined there.
    pub fn function(&self, offset: u64) -> Option<String> {
        let (record, _) = self.find(u32::try_from(offset).ok()?)?;
        self.text(self.names, self.u32(record + 4)?)
    }

    fn sites_at(&self, offset: u32) -> Option<Vec<GoSite>> {
        let (record, entry) = self.find(offset)?;
        let tree = self.tree(record);
        let mut sites = Vec::new();
        let mut at = offset;
        loop {
            let call = tree.and_then(|tree| self.inlined_call(tree, record, entry, at));
            let name = call.map_or(self.u32(record + 4)?, |call| call.0);
            let line = self.value(self.u32(record + 24)?, entry, at).and_then(|line| u32::try_from(line).ok());
            sites.push(GoSite {
                function: self.text(self.names, name)?,
                file: self.file(record, entry, at),
                line: line.filter(|&line| line > 0),
            });
            match call {
                Some((_, parent)) if sites.len() < MOST_INLINED => at = entry.checked_add(parent)?,
                _ => return Some(sites),
            }
        }
    }

    /// The record of the function that holds `offset`, and where the function begins.
    fn find(&self, offset: u32) -> Option<(usize, u32)> {
        let entry = |index: usize| self.u32(self.records + 8 * index);
        let (mut low, mut high) = (0, self.functions);
        while low < high {
            let middle = usize::midpoint(low, high);
            if entry(middle)? <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let index = low.checked_sub(1)?;
        // One more entry marks the end of the last function.
        if offset >= entry(index + 1)? {
            return None;
        }
        let record = self.records.checked_add(self.u32(self.records + 8 * index + 4)? as usize)?;
        Some((record, entry(index)?))
    }

    /// Where the function's inlined calls are recorded, in `data`.
    fn tree(&self, record: usize) -> Option<usize> {
        let counts = *self.bytes.get(record + self.record - 1)?;
        if self.record != MAGICS[1].1 || usize::from(counts) <= FUNCDATA_INL_TREE {
            return None;
        }
        let tables = self.u32(record + 28)? as usize;
        let at = self.u32(record + self.record + 4 * tables.checked_add(FUNCDATA_INL_TREE)?)?;
        (at != u32::MAX && !self.data.is_empty()).then_some(at as usize)
    }

    /// Name of the inlined function at `at`, and where in its caller (offset from the function's start) it was called; `None` in the function's own code.
    fn inlined_call(&self, tree: usize, record: usize, entry: u32, at: u32) -> Option<(u32, u32)> {
        if self.u32(record + 28)? as usize <= PCDATA_INL_TREE_INDEX {
            return None;
        }
        let table = self.u32(record + self.record + 4 * PCDATA_INL_TREE_INDEX)?;
        let index = usize::try_from(self.value(table, entry, at)?).ok()?;
        let call =
            self.data.get(tree.checked_add(index.checked_mul(INLINED_CALL)?)?..)?.first_chunk::<INLINED_CALL>()?;
        let number = |at: usize| call[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        Some((number(4)?, number(8)?))
    }

    fn file(&self, record: usize, entry: u32, at: u32) -> Option<String> {
        let number = u32::try_from(self.value(self.u32(record + 20)?, entry, at)?).ok()?;
        let unit = self.u32(record + 32)?.checked_add(number)?;
        let place = self.u32(self.units.checked_add(4 * unit as usize)?).filter(|&place| place != u32::MAX)?;
        self.text(self.files, place)
    }

    /// The value that a table of deltas has at `at`, a function's that begins at `entry` (runtime/symtab.go, `pcvalue`).
    fn value(&self, table: u32, entry: u32, at: u32) -> Option<i32> {
        if table == 0 {
            return None;
        }
        let mut bytes = self.bytes.get(self.values.checked_add(table as usize)?..)?.iter();
        let mut number = || {
            let mut number = 0u32;
            for shift in (0..32).step_by(7) {
                let byte = *bytes.next()?;
                number |= u32::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return Some(number);
                }
            }
            None
        };
        let (mut value, mut pc, mut first) = (-1i32, entry, true);
        loop {
            let delta = number()?;
            if delta == 0 && !first {
                return None;
            }
            first = false;
            value = value.wrapping_add((delta >> 1).cast_signed() ^ -(delta & 1).cast_signed());
            pc = pc.checked_add(number()?)?;
            if at < pc {
                return Some(value);
            }
        }
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    fn text(&self, from: usize, offset: u32) -> Option<String> {
        let bytes = self.bytes.get(from.checked_add(offset as usize)?..)?;
        let end = bytes.iter().take(LONGEST).position(|&byte| byte == 0)?;
        (end > 0).then(|| String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}
