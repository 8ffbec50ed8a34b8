//! One block of a Valgrind suppression file: `{ name  Memcheck:Leak  fun:… obj:… src:… ... }`.
//!
//! By [Valgrind's manual](https://valgrind.org/docs/manual/manual-core.html#manual-core.suppress) and
//! `coregrind/m_errormgr.c`: the frames are those of the stack's inner end, `...` stands for any number of frames.

use super::lsan::shown;
use super::pattern::{Pattern, readable};
use crate::report::model::Class;

/// Classes that a suppression takes: `match-leak-kinds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    definite: bool,
    indirect: bool,
    possible: bool,
    reachable: bool,
}

impl Kinds {
    /// All: what holds where there is no `match-leak-kinds`.
    pub const ALL: Self = Self { definite: true, indirect: true, possible: true, reachable: true };
    const NONE: Self = Self { definite: false, indirect: false, possible: false, reachable: false };

    /// Whether a group of this class is meant. What avleak could not classify is as good as reachable.
    pub fn include(self, class: Class) -> bool {
        match class {
            Class::DefinitelyLost => self.definite,
            Class::IndirectlyLost => self.indirect,
            Class::PossiblyLost => self.possible,
            Class::StillReachable | Class::Unclassified => self.reachable,
        }
    }

    fn parse(list: &str) -> Result<Self, String> {
        let mut kinds = Self::NONE;
        for kind in list.split(',').map(str::trim) {
            match kind {
                "all" => kinds = Self::ALL,
                "none" => (),
                "definite" => kinds.definite = true,
                "indirect" => kinds.indirect = true,
                "possible" => kinds.possible = true,
                "reachable" => kinds.reachable = true,
                other => {
                    return Err(format!(
                        "unknown leak kind `{}` (there are definite, possible, indirect, reachable, all and none)",
                        shown(other)
                    ));
                }
            }
        }
        Ok(kinds)
    }
}

/// One line of the stack.
#[derive(Debug, Clone, PartialEq)]
pub enum FramePattern {
    /// `...`: any number of frames.
    Any,
    /// `fun:`: a function by its readable or its linker name.
    Function(Vec<Pattern>),
    /// `obj:`: a module.
    Object(Pattern),
    /// `src:`: a source file, and a line.
    Source(Pattern, Option<u32>),
}

/// What a block says.
#[derive(Debug, PartialEq)]
pub enum Block {
    /// A leak.
    Leak {
        /// Its first line.
        name: String,
        /// Which leaks.
        kinds: Kinds,
        /// The stack's inner end.
        frames: Vec<FramePattern>,
    },
    /// Of another tool, or another error of Memcheck's: its name and `Tool:Kind`.
    Other(String, String),
}

/// A fault: how many lines after the `{` it lies, and what it is.
pub type Fault = (u32, String);

/// Reads the lines between the braces: each with its distance from the `{`, trimmed, without comments and empty ones. `end`: the
/// distance of the `}`.
///
/// # Errors
/// The reason, with the remedy.
pub fn parse(lines: &[(u32, &str)], end: u32) -> Result<Block, Fault> {
    let Some(&(_, name)) = lines.first() else {
        return Err((end, "an empty suppression (its first line is a name, its second `Memcheck:Leak`)".into()));
    };
    let Some(&(at, kind)) = lines.get(1) else {
        return Err((
            end,
            format!("`{}` has no second line (it says the tool and the kind: `Memcheck:Leak`)", shown(name)),
        ));
    };
    let Some((tools, error)) = kind.split_once(':') else {
        return Err((at, format!("`{}` where `Memcheck:Leak` was expected", shown(kind))));
    };
    if !tools.split(',').any(|tool| tool.trim() == "Memcheck") || error.trim() != "Leak" {
        return Ok(Block::Other(name.to_string(), kind.to_string()));
    }
    let mut rest = &lines[2..];
    let mut kinds = Kinds::ALL;
    if let Some(&(at, line)) = rest.first()
        && let Some(list) = line.strip_prefix("match-leak-kinds:")
    {
        kinds = Kinds::parse(list).map_err(|why| (at, why))?;
        rest = &rest[1..];
    }
    let mut frames = Vec::with_capacity(rest.len());
    for &(at, line) in rest {
        let frame = frame(line).map_err(|why| (at, why))?;
        // Two in a row mean what one means.
        if frame != FramePattern::Any || frames.last() != Some(&FramePattern::Any) {
            frames.push(frame);
        }
    }
    if frames.iter().all(|frame| *frame == FramePattern::Any) {
        return Err((end, format!("`{}` names no frame (add fun:, obj: or src: lines, innermost first)", shown(name))));
    }
    Ok(Block::Leak { name: name.to_string(), kinds, frames })
}

fn frame(line: &str) -> Result<FramePattern, String> {
    if line == "..." {
        return Ok(FramePattern::Any);
    }
    let (what, pattern) = line.split_once(':').unwrap_or((line, ""));
    if line.starts_with("match-leak-kinds") {
        return Err("match-leak-kinds must be the line after `Memcheck:Leak`".into());
    }
    if !matches!(what, "fun" | "obj" | "src") {
        return Err(format!("`{}` is no frame (there are fun:NAME, obj:FILE, src:FILE:LINE and `...`)", shown(line)));
    }
    if pattern.is_empty() {
        return Err(format!("`{what}:` without a name (`{what}:*` for any)"));
    }
    Ok(match what {
        "fun" => {
            let names = [Some(pattern.to_string()), readable(pattern)];
            FramePattern::Function(names.iter().flatten().map(|name| Pattern::valgrind(name)).collect())
        }
        "obj" => FramePattern::Object(Pattern::valgrind(pattern)),
        _ => match pattern.rsplit_once(':').map(|(file, line)| (file, line.parse::<u32>())) {
            Some((file, Ok(line))) => FramePattern::Source(Pattern::valgrind(file), Some(line)),
            _ => FramePattern::Source(Pattern::valgrind(pattern), None),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Result<Block, Fault> {
        let lines: Vec<(u32, &str)> = text
            .lines()
            .enumerate()
            .map(|(i, line)| (i as u32 + 1, line.trim()))
            .filter(|(_, l)| !l.is_empty())
            .collect();
        parse(&lines, text.lines().count() as u32 + 1)
    }

    fn frames(text: &str) -> Vec<FramePattern> {
        match block(&format!("n\nMemcheck:Leak\n{text}")) {
            Ok(Block::Leak { frames, .. }) => frames,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_whole_block() {
        let text = "lookahead of x264\nMemcheck:Leak\nmatch-leak-kinds: definite, possible\nfun:malloc\n...\nobj:*/libx264.so*\nsrc:a:b.c:7";
        let Ok(Block::Leak { name, kinds, frames }) = block(text) else { panic!() };
        assert_eq!(name, "lookahead of x264");
        let classes = [Class::DefinitelyLost, Class::IndirectlyLost, Class::PossiblyLost, Class::StillReachable];
        assert_eq!(classes.map(|class| kinds.include(class)), [true, false, true, false]);
        let [one, two] = ["malloc", "*/libx264.so*"].map(Pattern::valgrind);
        let expected = [
            FramePattern::Function(vec![one]),
            FramePattern::Any,
            FramePattern::Object(two),
            FramePattern::Source(Pattern::valgrind("a:b.c"), Some(7)),
        ];
        assert_eq!(frames, expected);
    }

    #[test]
    fn without_kinds_all_are_meant_and_with_none_none() {
        let kinds = |line: &str| match block(&format!("n\nMemcheck,Addrcheck:Leak\n{line}\nfun:f")) {
            Ok(Block::Leak { kinds, .. }) => kinds,
            other => panic!("{other:?}"),
        };
        assert_eq!(kinds(""), Kinds::ALL);
        assert_eq!(kinds("match-leak-kinds:all"), Kinds::ALL);
        assert_eq!(kinds("match-leak-kinds: none"), Kinds::NONE);
        assert!(Kinds::ALL.include(Class::Unclassified));
    }

    #[test]
    fn linker_names_match_either_way() {
        let [FramePattern::Function(names)] = &frames("fun:_ZN5cache4openEv")[..] else { panic!() };
        assert!(names.iter().any(|name| name.matches("cache::open()")));
        assert!(names.iter().any(|name| name.matches("_ZN5cache4openEv")));
    }

    #[test]
    fn ellipses_in_a_row_are_one() {
        assert_eq!(frames("...\n...\nfun:a\n...\n...").len(), 3);
    }

    #[test]
    fn other_tools_are_passed_over_whatever_they_say() {
        for kind in ["Helgrind:Race", "Memcheck:Cond", "Memcheck:Param", "drd:ConflictingAccess"] {
            let text = format!("n\n{kind}\nwritev(vector[...])\nnonsense");
            assert_eq!(block(&text), Ok(Block::Other("n".into(), kind.into())));
        }
    }

    #[test]
    fn faults_have_their_line() {
        let table = [
            ("", 1, "empty"),
            ("n", 2, "no second line"),
            ("n\nfun", 2, "`fun` where `Memcheck:Leak` was expected"),
            ("n\nMemcheck:Leak", 3, "names no frame"),
            ("n\nMemcheck:Leak\n...", 4, "names no frame"),
            ("n\nMemcheck:Leak\nfun:", 3, "`fun:` without a name"),
            ("n\nMemcheck:Leak\nfum:x", 3, "`fum:x` is no frame"),
            ("n\nMemcheck:Leak\n..", 3, "`..` is no frame"),
            ("n\nMemcheck:Leak\nmatch-leak-kinds: definitely\nfun:x", 3, "unknown leak kind `definitely`"),
            ("n\nMemcheck:Leak\nfun:x\nmatch-leak-kinds: all", 4, "must be the line after"),
        ];
        for (text, line, words) in table {
            let (at, why) = block(text).unwrap_err();
            assert!(at == line && why.contains(words), "{text:?}: {at} {why}");
        }
    }
}
