//! Function symbols with their sizes: an address has a name only where a symbol's range holds it.

use super::demangle::without_version;

/// A function as the symbol table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Mangled, without version.
    pub name: &'a str,
    /// Address in the file (SVMA).
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Bound more widely than to its object file: no static function.
    pub exported: bool,
}

/// What an ELF symbol table says of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSymbol<'a> {
    /// Its name, perhaps with a version.
    pub name: &'a [u8],
    /// Address in the file.
    pub start: u64,
    /// Bytes; 0 in hand-written assembly.
    pub size: u64,
    /// End of its section: as far as a symbol without a size may reach.
    pub limit: u64,
    /// How it is bound; of several names for one address the widest bound is shown.
    pub binding: Binding,
}

/// How widely a symbol is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Binding {
    /// In its own object file.
    Local,
    /// Everywhere, and may be overridden.
    Weak,
    /// Everywhere.
    Global,
}

/// The functions of one module, sorted.
#[derive(Debug, Default)]
pub struct SymbolTable {
    entries: Vec<Entry>,
    /// For each entry, the furthest end of it and all before it: bounds the walk back over enclosing symbols.
    furthest: Vec<u64>,
    names: String,
    complete: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u64,
    end: u64,
    name: u32,
    name_len: u32,
    /// Bound more widely than to its object file.
    exported: bool,
}

/// How many enclosing symbols a lookup looks at: functions do not nest deeper, hostile tables do.
const NESTING: usize = 64;

impl SymbolTable {
    /// Sorts `symbols`, keeps one name an address, and gives those without a size their reach.
    ///
    /// `complete`: static functions are among them. Only then may a symbol without a size reach to its successor: in a
    /// stripped library the bytes behind it may be a static function's.
    pub fn new(mut symbols: Vec<RawSymbol<'_>>, complete: bool) -> Self {
        symbols.sort_by(|a, b| a.start.cmp(&b.start).then_with(|| preference(b).cmp(&preference(a))));
        let mut table = Self { complete, ..Self::default() };
        let mut at = 0;
        let mut furthest = 0;
        while let Some(best) = symbols.get(at) {
            let same = symbols[at..].iter().take_while(|s| s.start == best.start).count();
            let mut size = symbols[at..at + same].iter().map(|s| s.size).max().unwrap_or(0);
            at += same;
            if size == 0 && complete {
                let next = symbols.get(at).map_or(u64::MAX, |s| s.start);
                size = next.min(best.limit).saturating_sub(best.start);
            }
            let name = String::from_utf8_lossy(best.name);
            let name = without_version(&name);
            let Ok(offset) = u32::try_from(table.names.len() + name.len()).map(|end| end - name.len() as u32) else {
                break;
            };
            let Some(end) = best.start.checked_add(size) else { continue };
            if size == 0 || name.is_empty() {
                continue;
            }
            table.names.push_str(name);
            furthest = end.max(furthest);
            table.furthest.push(furthest);
            let exported = best.binding != Binding::Local;
            table.entries.push(Entry { start: best.start, end, name: offset, name_len: name.len() as u32, exported });
        }
        table
    }

    /// The innermost function whose range holds `svma` (an address in the file). `None` inside no function's range: in a
    /// stripped library that is a static function.
    pub fn lookup(&self, svma: u64) -> Option<Symbol<'_>> {
        let after = self.entries.partition_point(|e| e.start <= svma);
        for at in (after.saturating_sub(NESTING)..after).rev() {
            if self.furthest[at] <= svma {
                return None;
            }
            let entry = &self.entries[at];
            if svma < entry.end {
                let name = entry.name as usize;
                return Some(Symbol {
                    name: self.names.get(name..name + entry.name_len as usize)?,
                    start: entry.start,
                    size: entry.end - entry.start,
                    exported: entry.exported,
                });
            }
        }
        None
    }

    /// The names of the functions around `svma` that are no static ones: the last that begins at or before it, the first behind it. A
    /// linker lays out whole object files: a static function's neighbours are of its own library, but at the library's edge.
    pub fn neighbours(&self, svma: u64) -> (Option<&str>, Option<&str>) {
        let after = self.entries.partition_point(|e| e.start <= svma);
        let name = |entry: &Entry| {
            let name = entry.name as usize;
            self.names.get(name..name + entry.name_len as usize)
        };
        let before = self.entries[..after].iter().rev().find(|entry| entry.exported).and_then(name);
        (before, self.entries[after..].iter().find(|entry| entry.exported).and_then(name))
    }

    /// Static functions are known too; otherwise only what the library exports.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// How many functions.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// No functions.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Of several names for one address: one with a size, bound widest, with the fewest underscores before it, the shortest.
fn preference<'a>(symbol: &'a RawSymbol<'_>) -> impl Ord + use<'a> {
    use std::cmp::Reverse;
    let underscores = symbol.name.iter().take_while(|&&b| b == b'_').count();
    (symbol.size > 0, symbol.binding, Reverse(underscores), Reverse(symbol.name.len()), Reverse(symbol.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(name: &str, start: u64, size: u64, binding: Binding) -> RawSymbol<'_> {
        RawSymbol { name: name.as_bytes(), start, size, limit: 0x2000, binding }
    }

    fn name(table: &SymbolTable, svma: u64) -> Option<&str> {
        table.lookup(svma).map(|s| s.name)
    }

    #[test]
    fn an_address_in_no_range_has_no_name() {
        let table = SymbolTable::new(
            vec![raw("b", 0x1200, 0x10, Binding::Global), raw("a", 0x1000, 0x100, Binding::Global)],
            false,
        );
        assert_eq!(name(&table, 0xfff), None);
        assert_eq!(name(&table, 0x1000), Some("a"));
        assert_eq!(name(&table, 0x10ff), Some("a"));
        assert_eq!(name(&table, 0x1100), None, "a static function between them");
        assert_eq!(table.lookup(0x120f), Some(Symbol { name: "b", start: 0x1200, size: 0x10, exported: true }));
        assert_eq!(name(&table, 0x1210), None);
        assert_eq!(name(&SymbolTable::default(), 0), None);
    }

    #[test]
    fn the_widest_known_name_of_aliases_is_shown_without_its_version() {
        let table = SymbolTable::new(
            vec![
                raw("__libc_memalign", 0x1000, 0x20, Binding::Global),
                raw("memalign@@GLIBC_2.2.5", 0x1000, 0x20, Binding::Global),
                raw("aa", 0x1000, 0x20, Binding::Local),
                raw("a", 0x1000, 0, Binding::Global),
            ],
            true,
        );
        assert_eq!(table.lookup(0x101f), Some(Symbol { name: "memalign", start: 0x1000, size: 0x20, exported: true }));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_symbol_without_a_size_reaches_on_only_where_all_are_known() {
        let symbols = || {
            vec![
                raw("asm", 0x1000, 0, Binding::Global),
                raw("c", 0x1100, 0x10, Binding::Local),
                raw("last", 0x1f00, 0, Binding::Local),
            ]
        };
        let complete = SymbolTable::new(symbols(), true);
        assert_eq!(name(&complete, 0x10ff), Some("asm"));
        assert_eq!(name(&complete, 0x1110), None);
        assert_eq!(name(&complete, 0x1fff), Some("last"));
        assert_eq!(name(&complete, 0x2000), None, "behind its section");
        let stripped = SymbolTable::new(symbols(), false);
        assert_eq!(name(&stripped, 0x1000), None);
        assert_eq!(name(&stripped, 0x1105), Some("c"));
    }

    #[test]
    fn the_neighbours_of_a_static_function_are_exported_ones() {
        let table = SymbolTable::new(
            vec![
                raw("main", 0x1000, 0x100, Binding::Global),
                raw("local", 0x1100, 0x10, Binding::Local),
                raw("av_malloc", 0x1200, 0x10, Binding::Global),
                raw("helper", 0x1300, 0x10, Binding::Local),
                raw("av_free", 0x1400, 0x10, Binding::Global),
            ],
            true,
        );
        assert_eq!(table.neighbours(0x1104), (Some("main"), Some("av_malloc")));
        assert_eq!(table.neighbours(0x1304), (Some("av_malloc"), Some("av_free")));
        assert_eq!(table.neighbours(0x1500), (Some("av_free"), None));
        assert_eq!(table.neighbours(0), (None, Some("main")));
    }

    #[test]
    fn an_enclosing_symbol_is_found_behind_the_ones_inside_it() {
        let table = SymbolTable::new(
            vec![raw("outer", 0x1000, 0x100, Binding::Global), raw("inner", 0x1010, 0x10, Binding::Local)],
            true,
        );
        assert_eq!(name(&table, 0x1018), Some("inner"));
        assert_eq!(name(&table, 0x1080), Some("outer"));
        let overflowing = SymbolTable::new(vec![raw("x", u64::MAX - 4, 100, Binding::Global)], true);
        assert_eq!(name(&overflowing, u64::MAX), None);
    }
}
