//! Suppression files: LSan's lines and Valgrind's blocks, told apart by what they look like, in one file or in several.

use super::lsan::{self, shown};
use super::pattern::Pattern;
use super::valgrind::{self, FramePattern, Kinds};
use crate::render::errno;
use crate::report::gated::{BUILT_IN, SuppressionPlace};
use std::io::{self, Read};
use std::path::PathBuf;

/// Larger files are refused: the largest suppression files in use have a few thousand lines. Bytes.
const LARGEST: u64 = 16 << 20;
/// What FFmpeg and what it loads are known to leave.
const DEFAULT: &str = include_str!("default.supp");
/// Kinds of passed-over suppressions that a note names.
const NAMED: usize = 4;

/// What a suppression looks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// LSan's: this in the function, module or source file of any frame.
    Anywhere(Pattern),
    /// Valgrind's: these classes, and the stack's inner end.
    Stack(Kinds, Vec<FramePattern>),
}

/// One suppression.
#[derive(Debug, Clone, PartialEq)]
pub struct Suppression {
    /// What to call it, and where it is written.
    pub place: SuppressionPlace,
    /// What it looks for.
    pub rule: Rule,
}

/// All that apply, in the order in which they are tried.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Suppressions {
    /// The user's, file by file; then avleak's own.
    pub list: Vec<Suppression>,
    /// What was passed over, one sentence for each file and kind.
    pub notes: Vec<String>,
}

/// Why a file cannot be used. Each is one line.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the messages say")]
pub enum FileError {
    /// It could not be read.
    #[error("cannot read suppressions {}: {} (check the name given to --suppressions)", .path.display(), errno::name(.source))]
    Unreadable { path: PathBuf, source: io::Error },
    /// More than a suppression file can be.
    #[error("{}: larger than {LARGEST} bytes, no suppression file", .path.display())]
    TooLarge { path: PathBuf },
    /// Bytes that are no text.
    #[error("{file}:{line}: not UTF-8 text (name a suppression file)")]
    NotText { file: String, line: u32 },
    /// A line that says nothing.
    #[error("{file}:{line}: {reason}")]
    Malformed { file: String, line: u32, reason: String },
}

impl Suppressions {
    /// The user's files in their order, then those that avleak brings along unless `without_default`.
    ///
    /// # Errors
    /// See [`FileError`]; the first fault ends it.
    pub fn load(files: &[PathBuf], without_default: bool) -> Result<Self, FileError> {
        let mut all = Self::default();
        for path in files {
            let unreadable = |source| FileError::Unreadable { path: path.clone(), source };
            let mut bytes = Vec::new();
            let file = std::fs::File::open(path).map_err(unreadable)?;
            file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
            if bytes.len() as u64 > LARGEST {
                return Err(FileError::TooLarge { path: path.clone() });
            }
            all.add(&path.display().to_string(), &bytes)?;
        }
        if !without_default {
            all.add(BUILT_IN, DEFAULT.as_bytes())?;
        }
        Ok(all)
    }

    /// Adds the content of one file; `file` is for messages and reports.
    ///
    /// # Errors
    /// [`FileError::NotText`], [`FileError::Malformed`].
    pub fn add(&mut self, file: &str, bytes: &[u8]) -> Result<(), FileError> {
        // Editors of other systems put a mark at the beginning.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count() as u32;
            FileError::NotText { file: file.to_string(), line }
        })?;
        let fault = |line: u32, reason: String| FileError::Malformed { file: file.to_string(), line, reason };
        let mut passed_over: Vec<(String, u64)> = Vec::new();
        let mut block: Option<(u32, Vec<(u32, &str)>)> = None;
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place =
                |name: &str, line: u32| SuppressionPlace { name: name.to_string(), file: file.to_string(), line };
            match &mut block {
                None if line == "{" => block = Some((number, Vec::new())),
                None if line == "}" => return Err(fault(number, "a `}` without its `{`".into())),
                None if line.starts_with('{') => {
                    return Err(fault(number, "a Valgrind suppression's `{` stands alone on its line".into()));
                }
                None => match lsan::parse(line).map_err(|why| fault(number, why))? {
                    lsan::Line::Leak(pattern) => {
                        self.list.push(Suppression { place: place(line, number), rule: Rule::Anywhere(pattern) });
                    }
                    lsan::Line::Other(kind) => count(&mut passed_over, kind),
                },
                Some((start, lines)) if line == "}" => {
                    let start = *start;
                    let read = valgrind::parse(lines, number - start)
                        .map_err(|(distance, why)| fault(start + distance, why))?;
                    match read {
                        valgrind::Block::Leak { name, kinds, frames } => {
                            self.list.push(Suppression { place: place(&name, start), rule: Rule::Stack(kinds, frames) })
                        }
                        valgrind::Block::Other(_, kind) => count(&mut passed_over, kind),
                    }
                    block = None;
                }
                Some((start, _)) if line == "{" => {
                    return Err(fault(
                        number,
                        format!("a `{{` inside the suppression of line {start} (its `}}` is missing)"),
                    ));
                }
                Some((start, lines)) => lines.push((number - *start, line)),
            }
        }
        if let Some((start, _)) = block {
            return Err(fault(start, "a suppression that never ends (its `}` is missing)".into()));
        }
        if !passed_over.is_empty() {
            self.notes.push(note(file, &passed_over));
        }
        Ok(())
    }
}

fn count(list: &mut Vec<(String, u64)>, kind: String) {
    match list.iter_mut().find(|(known, _)| *known == kind) {
        Some((_, number)) => *number += 1,
        None => list.push((kind, 1)),
    }
}

fn note(file: &str, passed_over: &[(String, u64)]) -> String {
    let total: u64 = passed_over.iter().map(|(_, number)| number).sum();
    let mut kinds: Vec<String> = passed_over.iter().take(NAMED).map(|(kind, _)| shown(kind)).collect();
    if passed_over.len() > NAMED {
        kinds.push("…".into());
    }
    let were = if total == 1 { "suppression was" } else { "suppressions were" };
    format!("{file}: {total} {were} passed over, of other tools or errors ({})", kinds.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<Suppressions, String> {
        let mut all = Suppressions::default();
        all.add("f.supp", text.as_bytes()).map(|()| all).map_err(|error| error.to_string())
    }

    fn error(text: &str) -> String {
        read(text).unwrap_err()
    }

    #[test]
    fn both_kinds_in_one_file() {
        let text = "# known\nleak:libx264\r\n\n  leak:^main$  \n{\n  one\n  Memcheck:Leak\n  # why\n  fun:malloc\n  fun:f\n}\nleak:z\n";
        let all = read(text).unwrap();
        let places: Vec<(&str, u32)> = all.list.iter().map(|s| (s.place.name.as_str(), s.place.line)).collect();
        assert_eq!(places, [("leak:libx264", 2), ("leak:^main$", 4), ("one", 5), ("leak:z", 12)]);
        assert_eq!(all.notes, Vec::<String>::new());
    }

    #[test]
    fn others_are_passed_over_and_counted() {
        let block = |kind: &str| format!("{{\nx\n{kind}\nfun:f\n}}\n");
        let text =
            format!("race:a\n{}{}{}leak:b\n", block("Helgrind:Race"), block("Memcheck:Cond"), block("Memcheck:Cond"));
        let all = read(&text).unwrap();
        assert_eq!(all.list.len(), 1);
        assert_eq!(
            all.notes,
            ["f.supp: 4 suppressions were passed over, of other tools or errors (race, Helgrind:Race, Memcheck:Cond)"]
        );
    }

    #[test]
    fn faults_name_file_line_and_reason() {
        assert_eq!(error("leak:a\nleek:b\n"), "f.supp:2: unknown kind `leek` (avleak knows `leak:PATTERN`)");
        assert_eq!(
            error("{\nx\nMemcheck:Leak\nfun:f\n"),
            "f.supp:1: a suppression that never ends (its `}` is missing)"
        );
        assert_eq!(error("leak:a\n}\n"), "f.supp:2: a `}` without its `{`");
        assert_eq!(error("\n\n{\nx\n{\n"), "f.supp:5: a `{` inside the suppression of line 3 (its `}` is missing)");
        assert!(error("{ x\n").starts_with("f.supp:1: a Valgrind suppression's `{` stands alone"));
        assert!(error("{\n\nx\nMemcheck:Leak\n  # a\n  fum:f\n}\n").starts_with("f.supp:6: `fum:f` is no frame"));
        let mut all = Suppressions::default();
        let fault = all.add("f", b"leak:a\nleak:\xff\n").unwrap_err().to_string();
        assert_eq!(fault, "f:2: not UTF-8 text (name a suppression file)");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Suppressions::load(&[PathBuf::from("/nonexistent.supp")], false).unwrap_err().to_string();
        assert!(error.starts_with("cannot read suppressions /nonexistent.supp: ENOENT"), "{error}");
    }

    #[test]
    fn what_is_built_in_can_be_read_and_says_why() {
        let all = Suppressions::load(&[], false).unwrap();
        assert!(all.notes.is_empty());
        assert!(all.list.iter().all(|s| s.place.file == BUILT_IN && matches!(s.rule, Rule::Stack(..))));
        for block in DEFAULT.split("\n{").skip(1).zip(DEFAULT.split("\n{")) {
            let comment = block.1.rsplit('\n').next().unwrap();
            assert!(comment.starts_with('#'), "an entry without a reason: {}", block.0);
        }
        assert_eq!(Suppressions::load(&[], true).unwrap(), Suppressions::default());
    }

    /// Files as projects have them.
    #[test]
    fn the_corpus_is_read_whole() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/suppressions");
        let expected = [
            ("lsan-browser.supp", 12, 0),
            ("lsan-desktop.supp", 12, 0),
            ("lsan-shared-with-tsan.supp", 2, 1),
            ("mixed.supp", 3, 0),
            ("valgrind-glib.supp", 6, 1),
            ("valgrind-mangled.supp", 4, 1),
            ("valgrind-python.supp", 2, 1),
        ];
        for (name, suppressions, notes) in expected {
            let all = Suppressions::load(&[folder.join(name)], true).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((all.list.len(), all.notes.len()), (suppressions, notes), "{name}");
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), expected.len());
    }

    /// Whatever the bytes: an answer, and a fault's line is one of the file's.
    #[test]
    fn no_bytes_are_too_strange() {
        let pieces: Vec<&[u8]> = vec![
            b"leak:",
            b"{\n",
            b"}\n",
            b"\n",
            b"Memcheck:Leak\n",
            b"...\n",
            b"fun:",
            b"obj:*\n",
            b"src:a:1\n",
            b"_ZN",
            b"*",
            b"?",
            b"^",
            b"$",
            b"#",
            b"\xff",
            b"\xef\xbb\xbf",
            b"match-leak-kinds:",
            b"all,",
            b"\0",
            b":",
            b"99999999999999999999",
            "ä\u{202e}".as_bytes(),
            b"\r",
            b"race:x\n",
            b" ",
            b"5cache4open",
            b"name\n",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            // xorshift64: the same sequence in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let (mut good, mut bad) = (0, 0);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random(14)).flat_map(|_| pieces[random(pieces.len())].iter().copied()).collect();
            let lines = 1 + bytes.iter().filter(|&&byte| byte == b'\n').count() as u32;
            match Suppressions::default().add("f", &bytes) {
                Ok(()) => good += 1,
                Err(FileError::Malformed { line, .. } | FileError::NotText { line, .. }) => {
                    bad += 1;
                    assert!((1..=lines).contains(&line), "{line} of {lines}: {bytes:?}");
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(good > 500 && bad > 500, "{good} {bad}");
    }
}
