//! The file of a baseline: known leak groups, with how many objects of each are let through.
//!
//! TOML, one table for each group, sorted by id: a merge of two branches that add groups needs no thought, and the same id twice
//! is an error that names its line. What people write into it (comments, `note`, other keys) is kept when it is written anew.

use super::kinship::{self, Kin};
use super::lsan::shown;
use super::{counted, would_count};
use crate::render::errno;
use crate::render::load::AnyReport;
use crate::report::model::{Class, Group, Report};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use toml_edit::{Array, Document, DocumentMut, Item, Table, Value, value};

/// `format` of every baseline written by this version: name, slash, major.
pub const FORMAT: &str = "avleak-baseline/1";
/// Larger files are refused: 100,000 groups are far below this. Bytes.
const LARGEST: u64 = 1 << 28;
/// What a new file begins with.
const HEAD: &str = "# Leak groups that are known and let through, up to `count` objects each, by `avleak run --baseline FILE`.\n# \
                    Written by `avleak baseline save`, which keeps comments, `note = \"…\"` and other keys of a group.\n";
const ADVICE: &str = "mend the line, or write the file anew with `avleak baseline save`";

/// One known group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Class of its objects.
    pub class: Class,
    /// Objects that are let through.
    pub count: u64,
    /// How it is recognised where its id has changed.
    pub kin: Kin,
}

/// A baseline.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    /// By id.
    pub groups: BTreeMap<String, Entry>,
    /// The file as it was read: what people wrote into it.
    document: DocumentMut,
}

/// Why a baseline cannot be used. Each is one line that names the file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the messages say")]
pub enum BaselineError {
    /// It could not be read.
    #[error("cannot read baseline {}: {} ({})", .path.display(), errno::name(.source), read_remedy(.source))]
    Unreadable { path: PathBuf, source: io::Error },
    /// There is nothing in it.
    #[error("{}: the file is empty, not a baseline (write one with `avleak baseline save`)", .path.display())]
    Empty { path: PathBuf },
    /// More than a baseline can be.
    #[error("{}: larger than {LARGEST} bytes, not a baseline", .path.display())]
    TooLarge { path: PathBuf },
    /// Something else.
    #[error("{}: not a baseline of avleak: {reason} (write one with `avleak baseline save REPORT.json -o FILE`)", .path.display())]
    NotOne { path: PathBuf, reason: String },
    /// A baseline of another major version.
    #[error("{}: format {found} cannot be read by this avleak, which reads {FORMAT} (use the avleak that wrote it, or save the baseline anew)", .path.display())]
    OtherMajor { path: PathBuf, found: String },
    /// TOML with an error in it, or a value that is none.
    #[error("{}:{line}:{column}: {reason} ({ADVICE})", .path.display())]
    Malformed { path: PathBuf, line: usize, column: usize, reason: String },
}

fn read_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "check the name, or write it with `avleak baseline save REPORT.json -o FILE`",
        Some(libc::EISDIR) => "name a file, not a folder",
        _ => "this user may not read it, or name another file",
    }
}

impl Baseline {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`BaselineError`].
    pub fn load(path: &Path) -> Result<Self, BaselineError> {
        let unreadable = |source| BaselineError::Unreadable { path: path.to_path_buf(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > LARGEST {
            return Err(BaselineError::TooLarge { path: path.to_path_buf() });
        }
        Self::parse(path, &bytes)
    }

    /// As [`Self::load`], from the file's content; `path` is for the messages.
    ///
    /// # Errors
    /// See [`BaselineError`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, BaselineError> {
        let path_buf = || path.to_path_buf();
        let text = match std::str::from_utf8(bytes) {
            Ok(text) if text.trim().is_empty() => return Err(BaselineError::Empty { path: path_buf() }),
            Ok(text) => text,
            Err(_) => return Err(BaselineError::NotOne { path: path_buf(), reason: "it is no text".into() }),
        };
        if text.trim_start().starts_with('{') {
            let reason = "it looks like a report (JSON), not a baseline".into();
            return Err(BaselineError::NotOne { path: path_buf(), reason });
        }
        let fault = |at: usize, reason: String| {
            let (line, column) = place(text, at);
            BaselineError::Malformed { path: path_buf(), line, column, reason }
        };
        let document = Document::parse(text.to_string()).map_err(|error| {
            let reason = error.message().lines().collect::<Vec<_>>().join(", ");
            fault(error.span().map_or(0, |span| span.start), reason)
        })?;
        let Some(format) = document.get("format").and_then(Item::as_str) else {
            let reason = format!("it has no `format = \"{FORMAT}\"`");
            return Err(BaselineError::NotOne { path: path_buf(), reason });
        };
        if format != FORMAT {
            return Err(match format.rsplit_once('/') {
                Some(("avleak-baseline", _)) => BaselineError::OtherMajor { path: path_buf(), found: shown(format) },
                _ => BaselineError::NotOne { path: path_buf(), reason: format!("its format is `{}`", shown(format)) },
            });
        }
        let mut groups = BTreeMap::new();
        match document.get("group") {
            None => {}
            Some(Item::Table(table)) => {
                for (id, item) in table {
                    let at = table.key(id).and_then(toml_edit::Key::span).or(item.span()).map_or(0, |span| span.start);
                    let entry =
                        entry(id, item).map_err(|(span, reason)| fault(span.map_or(at, |span| span.start), reason))?;
                    groups.insert(id.to_string(), entry);
                }
            }
            Some(other) => {
                let at = other.span().map_or(0, |span| span.start);
                return Err(fault(at, "`group` is no table of groups ([group.ID])".into()));
            }
        }
        Ok(Self { groups, document: document.into_mut() })
    }

    /// Of one or more runs of the same command: each group with the most objects that it had in one of them.
    pub fn of(reports: &[AnyReport]) -> Self {
        let mut baseline = Self::default();
        for report in reports {
            let one = match report {
                AnyReport::Process(report) => Self::of_run(&[report]),
                AnyReport::Run(run) => Self::of_run(&run.processes.iter().collect::<Vec<_>>()),
            };
            baseline.raise(one);
        }
        baseline
    }

    fn of_run(processes: &[&Report]) -> Self {
        let mut groups: BTreeMap<String, Entry> = BTreeMap::new();
        for report in processes {
            let known = |group: &&Group| would_count(group) && group.suppressed_by.is_none();
            for group in report.groups.iter().filter(known) {
                let count = counted(group, report.level);
                groups
                    .entry(group.id.clone())
                    .and_modify(|entry| entry.count = entry.count.saturating_add(count))
                    .or_insert_with(|| Entry { class: group.class, count, kin: Kin::of(group) });
            }
        }
        Self { groups, document: DocumentMut::default() }
    }

    /// Takes over every group that is missing here, and the larger count of one that is not.
    fn raise(&mut self, other: Self) {
        for (id, entry) in other.groups {
            let count = entry.count;
            self.groups.entry(id).or_insert(entry).count_at_least(count);
        }
    }

    /// What people wrote into `old` goes on: comments, notes and other keys of the groups that are still there, or that are
    /// kin to one that is new here. `keep`: its groups too, with the larger of both counts.
    pub fn succeed(&mut self, old: Self, keep: bool) {
        let gone: Vec<String> = old.groups.keys().filter(|id| !self.groups.contains_key(*id)).cloned().collect();
        let new: Vec<String> = self.groups.keys().filter(|id| !old.groups.contains_key(*id)).cloned().collect();
        let mut document = old.document.clone();
        if keep {
            self.raise(Self { groups: old.groups, document: DocumentMut::default() });
        } else {
            let kin = |ids: &[String], groups: &BTreeMap<String, Entry>| -> Vec<Kin> {
                ids.iter().filter_map(|id| groups.get(id)).map(|entry| entry.kin.clone()).collect()
            };
            let pairs = kinship::pair(&kin(&gone, &old.groups), &kin(&new, &self.groups));
            if let Some(tables) = document.get_mut("group").and_then(Item::as_table_mut) {
                for (from, to) in pairs {
                    // The old one stays unwritten; to take it out would move all behind it.
                    if let Some(table) = tables.get(&gone[from]).cloned() {
                        tables.insert(&new[to], table);
                    }
                }
            }
        }
        self.document = document;
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut document = self.document.clone();
        if document.get("format").is_none() {
            document = DocumentMut::default();
            document.insert("format", value(FORMAT));
            if let Some(mut key) = document.key_mut("format") {
                key.leaf_decor_mut().set_prefix(HEAD);
            }
        }
        let old = match document.remove("group") {
            Some(Item::Table(table)) => table,
            _ => Table::new(),
        };
        let mut tables = Table::new();
        tables.set_implicit(true);
        for (position, (id, entry)) in (1..).zip(&self.groups) {
            let mut table = old.get(id).and_then(Item::as_table).cloned().unwrap_or_default();
            let mut stack = Array::new();
            for label in &entry.kin.stack {
                let mut label = Value::from(label.as_str());
                label.decor_mut().set_prefix("\n  ");
                stack.push_formatted(label);
            }
            if !stack.is_empty() {
                stack.set_trailing("\n");
                stack.set_trailing_comma(true);
            }
            let count = i64::try_from(entry.count).unwrap_or(i64::MAX);
            put(&mut table, "at", entry.kin.at.as_str().into());
            put(&mut table, "object", entry.kin.object.as_str().into());
            put(&mut table, "class", entry.class.key().into());
            put(&mut table, "count", count.into());
            put(&mut table, "stack", stack.into());
            table.set_position(Some(position));
            tables.insert(id, Item::Table(table));
        }
        document.insert("group", Item::Table(tables));
        document.to_string()
    }
}

impl Entry {
    fn count_at_least(&mut self, count: u64) {
        self.count = self.count.max(count);
    }
}

/// Sets a value and keeps the comment behind the old one.
fn put(table: &mut Table, key: &str, mut new: Value) {
    if let Some(old) = table.get(key).and_then(Item::as_value) {
        *new.decor_mut() = old.decor().clone();
    }
    table.insert(key, Item::Value(new));
}

type Fault = (Option<std::ops::Range<usize>>, String);

fn entry(id: &str, item: &Item) -> Result<Entry, Fault> {
    if id.len() != 16 || !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err((None, format!("`{}` is no group's id, which is 16 hex digits", shown(id))));
    }
    let Item::Table(table) = item else {
        return Err((item.span(), format!("group {id} is no table ([group.{id}])")));
    };
    let missing = |key: &str| (None, format!("group {id} has no `{key}`"));
    let text = |key: &str| -> Result<&str, Fault> {
        let item = table.get(key).ok_or_else(|| missing(key))?;
        item.as_str().ok_or_else(|| (item.span(), format!("`{key}` of group {id} is no text")))
    };
    let count = table.get("count").ok_or_else(|| missing("count"))?;
    let count = count
        .as_integer()
        .and_then(|count| u64::try_from(count).ok())
        .ok_or_else(|| (count.span(), format!("`count` of group {id} is no number of objects")))?;
    let key = text("class")?;
    let classes =
        [Class::DefinitelyLost, Class::IndirectlyLost, Class::PossiblyLost, Class::StillReachable, Class::Unclassified];
    let class = classes.into_iter().find(|class| class.key() == key).ok_or_else(|| {
        (table.get("class").and_then(Item::span), format!("`{}` of group {id} is no class", shown(key)))
    })?;
    let stack = match table.get("stack") {
        None => Vec::new(),
        Some(item) => item
            .as_array()
            .and_then(|labels| labels.iter().map(|label| label.as_str().map(String::from)).collect())
            .ok_or_else(|| (item.span(), format!("`stack` of group {id} is no list of texts")))?,
    };
    Ok(Entry { class, count, kin: Kin { object: text("object")?.into(), stack, at: text("at")?.into() } })
}

/// Line and column, both from 1, of a byte.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    (line, 1 + before.iter().rev().take_while(|&&byte| byte != b'\n').count())
}

#[cfg(test)]
#[path = "baseline_tests.rs"]
mod tests;
