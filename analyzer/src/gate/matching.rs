//! Which suppression takes which group.
//!
//! Each name is held against each pattern once: a report of 100,000 groups has few distinct frames.

use super::pattern::Pattern;
use super::suppression_file::{Rule, Suppressions};
use super::valgrind::FramePattern;
use crate::report::model::{Class, Frame, Module};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// What stands at the top of a stack in Valgrind, and not in a report: avleak's stacks begin at the caller.
const ALLOCATORS: [&str; 9] =
    ["malloc", "calloc", "realloc", "reallocarray", "posix_memalign", "memalign", "aligned_alloc", "valloc", "pvalloc"];

/// Finds the suppression of a stack.
pub struct Matcher<'a> {
    suppressions: &'a Suppressions,
    /// By module name.
    paths: FxHashMap<&'a str, Vec<&'a str>>,
    frames: FxHashMap<Frame, Arc<[bool]>>,
    /// Of each suppression: the columns of its patterns.
    columns: Vec<Vec<Option<usize>>>,
    patterns: Vec<&'a FrameOrName>,
}

/// A column of the table: what a frame is held against.
#[derive(Debug)]
enum FrameOrName {
    Name(Pattern),
    Frame(FramePattern),
}

/// The columns of [`Suppressions`], which a [`Matcher`] borrows.
pub struct Columns {
    patterns: Vec<FrameOrName>,
    of: Vec<Vec<Option<usize>>>,
}

impl Columns {
    /// One for each pattern.
    pub fn new(suppressions: &Suppressions) -> Self {
        let mut patterns = Vec::new();
        let mut known: FxHashMap<String, usize> = FxHashMap::default();
        // Generated files say `fun:main` in every entry.
        let mut add = |pattern: FrameOrName| {
            let column = *known.entry(format!("{pattern:?}")).or_insert_with(|| {
                patterns.push(pattern);
                patterns.len() - 1
            });
            Some(column)
        };
        let of = suppressions
            .list
            .iter()
            .map(|suppression| match &suppression.rule {
                Rule::Anywhere(pattern) => vec![add(FrameOrName::Name(pattern.clone()))],
                Rule::Stack(_, frames) => frames
                    .iter()
                    .map(|frame| match frame {
                        FramePattern::Any => None,
                        frame => add(FrameOrName::Frame(frame.clone())),
                    })
                    .collect(),
            })
            .collect();
        Self { patterns, of }
    }
}

/// Where the modules of each name lie: as loaded, and where links lead from there.
fn paths_of(modules: &[Module]) -> FxHashMap<&str, Vec<&str>> {
    let mut paths: FxHashMap<&str, Vec<&str>> = FxHashMap::default();
    for module in modules {
        let all = paths.entry(&module.name).or_default();
        all.push(&module.path);
        all.extend(module.real_path.as_deref());
    }
    paths
}

impl<'a> Matcher<'a> {
    /// For groups whose modules lie at these paths.
    pub fn new(suppressions: &'a Suppressions, columns: &'a Columns, modules: &'a [Module]) -> Self {
        Self {
            suppressions,
            paths: paths_of(modules),
            frames: FxHashMap::default(),
            columns: columns.of.clone(),
            patterns: columns.patterns.iter().collect(),
        }
    }

    /// All suppressions that take a group of this class and stack, the first being the one that is named.
    pub fn find(&mut self, class: Class, stack: &[Frame]) -> Vec<usize> {
        let rows: Vec<Arc<[bool]>> = stack.iter().map(|frame| self.row(frame)).collect();
        let takes = |at: &usize| match &self.suppressions.list[*at].rule {
            Rule::Anywhere(_) => {
                let column = self.columns[*at][0];
                column.is_some_and(|column| rows.iter().any(|row| row[column]))
            }
            Rule::Stack(kinds, frames) => {
                kinds.include(class)
                    && (fits(&self.columns[*at], &rows)
                        || (is_allocator(&frames[0]) && frames.len() > 1 && fits(&self.columns[*at][1..], &rows)))
            }
        };
        (0..self.suppressions.list.len()).filter(takes).collect()
    }

    fn row(&mut self, frame: &Frame) -> Arc<[bool]> {
        if let Some(known) = self.frames.get(frame) {
            return known.clone();
        }
        let row: Arc<[bool]> = self.patterns.iter().map(|pattern| self.fits_frame(pattern, frame)).collect();
        self.frames.insert(frame.clone(), row.clone());
        row
    }

    fn fits_frame(&self, pattern: &FrameOrName, frame: &Frame) -> bool {
        let function = frame.function.as_deref().unwrap_or("");
        let in_module = |pattern: &Pattern| {
            frame.module.as_deref().is_some_and(|name| {
                pattern.matches(name)
                    || match self.paths.get(name) {
                        Some(paths) => paths.iter().any(|path| pattern.matches(path)),
                        // A report without paths: `*/libx.so` means the file, wherever it lies.
                        None => pattern.matches(&format!("/{name}")),
                    }
            })
        };
        let in_file = |pattern: &Pattern| {
            frame
                .file
                .as_deref()
                .is_some_and(|file| pattern.matches(file) || pattern.matches(file.rsplit('/').next().unwrap_or(file)))
        };
        match pattern {
            FrameOrName::Name(pattern) => pattern.matches(function) || in_module(pattern) || in_file(pattern),
            FrameOrName::Frame(FramePattern::Any) => true,
            // What Valgrind calls ??? in its stacks is no name: `fun:*` takes it all the same.
            FrameOrName::Frame(FramePattern::Function(names)) => {
                names.iter().any(|name| name.matches(function) || (function.is_empty() && name.matches("???")))
            }
            FrameOrName::Frame(FramePattern::Object(pattern)) => {
                in_module(pattern) || (frame.module.is_none() && pattern.matches("???"))
            }
            FrameOrName::Frame(FramePattern::Source(pattern, line)) => {
                in_file(pattern) && line.is_none_or(|line| frame.line == Some(line))
            }
        }
    }
}

fn is_allocator(pattern: &FramePattern) -> bool {
    match pattern {
        FramePattern::Function(names) => {
            ALLOCATORS.iter().any(|function| names.iter().any(|name| name.matches(function)))
        }
        FramePattern::Object(name) => name.matches("/usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so"),
        FramePattern::Any | FramePattern::Source(..) => false,
    }
}

/// Whether the stack's inner end fits; `None` among the columns stands for any number of frames.
fn fits(columns: &[Option<usize>], rows: &[Arc<[bool]>]) -> bool {
    // As with wildcards in a text: only the last `...` need be tried again.
    let (mut column, mut row) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    loop {
        match columns.get(column) {
            None => return true,
            Some(None) => {
                column += 1;
                again = Some((column, row));
            }
            Some(Some(pattern)) if rows.get(row).is_some_and(|frame| frame[*pattern]) => {
                column += 1;
                row += 1;
            }
            Some(Some(_)) => match &mut again {
                Some((to, from)) if *from < rows.len() => {
                    *from += 1;
                    (column, row) = (*to, *from);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{ffmpeg, own, system};

    fn found_in(text: &str, class: Class, stack: &[Frame]) -> Vec<usize> {
        let mut all = Suppressions::default();
        all.add("f", text.as_bytes()).unwrap();
        let columns = Columns::new(&all);
        let modules = [Module {
            name: "libavutil.so.57".into(),
            path: "/usr/lib/x86_64-linux-gnu/libavutil.so.57".into(),
            real_path: Some("/usr/lib/x86_64-linux-gnu/libavutil.so.57.28.100".into()),
            ..Module::default()
        }];
        Matcher::new(&all, &columns, &modules).find(class, stack)
    }

    fn stack() -> Vec<Frame> {
        vec![
            ffmpeg("av_malloc", "libavutil.so.57"),
            ffmpeg("av_frame_alloc", "libavutil.so.57"),
            own("decode_one", "src/decode.c", 88),
            Frame { module: Some("plugin.so".into()), offset: 0x12, ..Frame::default() },
            own("main", "src/server.c", 402),
            system("__libc_start_main"),
        ]
    }

    fn takes(frames: &str) -> bool {
        let block = format!("{{\nn\nMemcheck:Leak\n{}\n}}", frames.replace(' ', "\n"));
        !found_in(&block, Class::DefinitelyLost, &stack()).is_empty()
    }

    #[test]
    fn valgrinds_frames() {
        let table = [
            ("fun:av_malloc", true),
            ("fun:av_frame_alloc", false),
            ("fun:malloc fun:av_malloc fun:av_frame_alloc", true),
            ("fun:posix_memalign fun:av_malloc", true),
            ("fun:*alloc fun:av_malloc fun:av_frame_alloc", true),
            ("fun:*alloc fun:av_frame_alloc", true),
            ("fun:free fun:av_malloc", false),
            ("obj:*/vgpreload_memcheck* fun:av_malloc", true),
            ("... fun:decode_one", true),
            ("... fun:decode_one fun:main", false),
            ("... fun:decode_one ... fun:main", true),
            ("... fun:decode_one obj:*plugin.so fun:main", true),
            ("... fun:decode_one fun:* fun:main", true),
            ("fun:malloc ... fun:main", true),
            ("... fun:main fun:* fun:*", false),
            ("... fun:main fun:* ...", true),
            ("obj:/usr/lib/x86_64-linux-gnu/libavutil.so.57.28.100", true),
            ("obj:*/libavutil.so*", true),
            ("obj:libavutil.so.57 obj:* obj:/srv/server", false),
            ("obj:libavutil.so.57 obj:* obj:*/server", true),
            ("obj:libavutil.so.57 obj:* obj:server", true),
            ("obj:/opt/libavutil.so.57", false),
            ("... src:decode.c:88", true),
            ("... src:src/decode.c", true),
            ("... src:decode.c:89", false),
            ("... fun:a* ... fun:m* ... fun:a*", false),
        ];
        for (frames, expected) in table {
            assert_eq!(takes(frames), expected, "{frames}");
        }
    }

    #[test]
    fn lsans_patterns_look_at_function_module_and_file_of_every_frame() {
        let table = [
            ("av_frame_alloc", true),
            ("^decode_one$", true),
            ("^ecode", false),
            ("plugin.so", true),
            ("/usr/lib/*/libavutil.so.57.28.100$", true),
            ("/opt/", false),
            ("src/server.c", true),
            ("^server.c$", true),
            ("*", true),
            ("free", false),
        ];
        for (pattern, expected) in table {
            let found = found_in(&format!("leak:{pattern}"), Class::StillReachable, &stack());
            assert_eq!(!found.is_empty(), expected, "{pattern}");
        }
        assert!(found_in("leak:*", Class::DefinitelyLost, &[]).is_empty(), "nothing is known of an empty stack");
    }

    #[test]
    fn kinds_are_kept_apart() {
        let text = "{\nn\nMemcheck:Leak\nmatch-leak-kinds: possible\n...\nfun:main\n}";
        assert_eq!(found_in(text, Class::PossiblyLost, &stack()), [0]);
        assert!(found_in(text, Class::DefinitelyLost, &stack()).is_empty());
    }

    #[test]
    fn all_that_match_are_found_first_to_last() {
        assert_eq!(found_in("leak:nothing\nleak:main\nleak:av_", Class::DefinitelyLost, &stack()), [1, 2]);
    }

    /// Against matching written the slow, plain way, over many small stacks and patterns.
    #[test]
    fn ellipses_agree_with_a_plain_search() {
        fn slow(columns: &[Option<usize>], rows: &[Arc<[bool]>]) -> bool {
            match columns.split_first() {
                None => true,
                Some((None, rest)) => (0..=rows.len()).any(|skipped| slow(rest, &rows[skipped..])),
                Some((Some(pattern), rest)) => {
                    rows.split_first().is_some_and(|(row, more)| row[*pattern] && slow(rest, more))
                }
            }
        }
        let rows_of = |mut bits: usize| -> Vec<Arc<[bool]>> {
            let mut rows = Vec::new();
            for _ in 0..5 {
                rows.push(Arc::from([bits & 1 != 0, bits & 2 != 0]));
                bits >>= 2;
            }
            rows
        };
        let mut fitting = 0;
        for shape in 0..3_usize.pow(5) {
            let columns: Vec<Option<usize>> = (0..5).map(|at| (shape / 3_usize.pow(at) % 3).checked_sub(1)).collect();
            for bits in (0..1024).step_by(7) {
                let rows = rows_of(bits);
                assert_eq!(fits(&columns, &rows), slow(&columns, &rows), "{columns:?} {rows:?}");
                fitting += usize::from(fits(&columns, &rows));
            }
        }
        assert!(fitting > 1000);
    }
}
