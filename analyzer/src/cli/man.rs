//! `avleak man FOLDER`, for whoever packs avleak: the man pages, made of the same definitions as `--help`.

use super::Arguments;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::io;
use std::path::PathBuf;

/// Write the man pages into a folder.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The folder, which must be there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Exit statuses of `avleak run`, `ci` and their like.
const STATUSES: [(&str, &str); 5] = [
    ("the command's own", "where it is not 0; 128 + the signal's number where a signal ended it"),
    ("0", "clean: FFmpeg was used, all was seen, nothing is leaked at this level"),
    ("1", "leaks (--error-exitcode chooses another)"),
    ("2", "wrong usage, a command that cannot be started or watched, or an error of avleak's own"),
    ("3", "inconclusive: no leak was found, but not everything was seen, or FFmpeg was not used at all"),
];

const VARIABLES: [(&str, &str); 5] = [
    ("AVLEAK_LIB", "the libavleak.so to preload; default: beside avleak, or in ../lib from there"),
    (
        "AVLEAK_ANALYZER",
        "the avleak that a bare LD_PRELOAD=libavleak.so starts; default: beside the library, or in ../bin",
    ),
    ("AVLEAK_SOCKET", "where a process with libavleak.so preloaded registers, as `avleak serve --socket` names it"),
    (
        "AVLEAK_OPTIONS",
        "key=value, joined by colons: report_dir, reports_kept, level, quiet (bare preload only), ptrace, verify, patience_ms",
    ),
    ("NO_COLOR, CLICOLOR_FORCE", "no colours; colours also where output is no terminal"),
];

/// Runs the subcommand; returns the exit status.
pub fn run(args: &ManArgs) -> i32 {
    let pages = pages();
    for (name, page) in &pages {
        if let Err(error) = std::fs::write(args.folder.join(name), page) {
            super::observe::say(&format!("cannot write {}: {error}", args.folder.join(name).display()));
            return crate::report::verdict::EXIT_AVLEAK;
        }
    }
    0
}

/// File names and contents: `avleak.1`, `avleak-run.1`, …
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages);
    pages
}

fn collect(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    // Written to memory, which does not fail.
    if write(command, &name, &mut page).is_ok() {
        pages.push((format!("{name}.1"), page));
    }
    for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
        collect(child, pages);
    }
}

fn write(command: &Command, name: &str, into: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(command.clone()).source(concat!("avleak ", env!("CARGO_PKG_VERSION")));
    man.render_title(into)?;
    man.render_name_section(into)?;
    man.render_synopsis_section(into)?;
    man.render_description_section(into)?;
    man.render_options_section(into)?;
    if command.get_subcommands().any(|child| !child.is_hide_set()) {
        man.render_subcommands_section(into)?;
    }
    let mut roff = Roff::new();
    if matches!(name, "avleak" | "avleak-run" | "avleak-ci") {
        section(&mut roff, "EXIT STATUS", &STATUSES);
        section(&mut roff, "ENVIRONMENT", &VARIABLES);
    }
    if name == "avleak" {
        roff.control("SH", ["EXAMPLES"]);
        roff.control("TP", []);
        roff.text([bold("avleak run -- ffmpeg -i in.mp4 -f null -")]);
        roff.text([roman("run a command, report on stderr what it leaked")]);
        roff.control("TP", []);
        roff.text([bold("avleak run --json r.json --html r.html -- CMD")]);
        roff.text([roman("write the report to files as well")]);
        roff.control("TP", []);
        roff.text([bold("LD_PRELOAD=libavleak.so CMD")]);
        roff.text([roman("without a wrapper: avleak.PID.json is written when the process has ended")]);
    }
    roff.to_writer(into)
}

fn section(roff: &mut Roff, title: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (term, text) in entries {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*text)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Undoes what roff needs escaped.
    fn plain(page: &[u8]) -> String {
        String::from_utf8(page.to_vec()).expect("a page in UTF-8").replace("\\-", "-")
    }

    #[test]
    fn every_option_of_the_help_is_on_its_page() {
        let mut command = Arguments::command();
        command.build();
        let mut pages = pages();
        let mut options = 0;
        let mut check = |command: &mut Command, name: &str| {
            let at = pages.iter().position(|(file, _)| *file == format!("{name}.1")).expect(name);
            let page = plain(&pages.swap_remove(at).1);
            let help = command.render_long_help().to_string();
            for word in help.split(|c: char| c.is_whitespace() || ",[]()=`".contains(c)) {
                let word = word.trim_end_matches(['.', ':', ';']);
                let is_option = word.starts_with("--") && word.len() > 2 && word[2..].starts_with(char::is_lowercase);
                if is_option {
                    assert!(page.contains(word), "{word} of `{name} --help` is not in its page:\n{page}");
                    options += 1;
                }
            }
            let children = command.get_subcommands_mut().filter(|c| !c.is_hide_set() && c.get_name() != "help");
            children.map(|child| child.get_name().to_owned()).collect::<Vec<_>>()
        };
        let mut left = vec![(Vec::new(), "avleak".to_owned())];
        while let Some((path, name)) = left.pop() {
            let mut at = &mut command;
            for part in &path {
                at = at.find_subcommand_mut(part).expect("a subcommand");
            }
            for child in check(at, &name) {
                let mut longer: Vec<&str> = path.clone();
                let leaked: &'static str = String::leak(child);
                longer.push(leaked);
                left.push((longer, format!("{name}-{leaked}")));
            }
        }
        assert!(pages.is_empty(), "pages of no subcommand: {:?}", pages.iter().map(|page| &page.0).collect::<Vec<_>>());
        assert!(options > 40, "only {options} options were looked for");
    }

    #[test]
    fn the_pages_name_no_hidden_subcommand() {
        for (file, page) in pages() {
            let page = plain(&page);
            assert!(!page.contains("avleak-analyze") && !page.contains("avleak-man"), "{file}");
        }
    }
}
