//! Colours: which role looks how, and whether there are any.

use std::io::IsTerminal;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set; anywhere if CLICOLOR_FORCE is.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a piece of text is; the look follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Running text.
    Plain,
    /// A leak.
    Bad,
    /// All is well.
    Good,
    /// Something was not seen.
    Warn,
    /// The headline's subject, a section's name.
    Strong,
    /// A function of the user's own program.
    Own,
    /// A source position of the user's own program.
    Place,
    /// Where the siblings die.
    Remedy,
    /// FFmpeg's and the system's parts, and what is of second interest.
    Dim,
}

/// Paints text, or leaves it plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    colored: bool,
}

impl Style {
    /// No escape sequences.
    pub const PLAIN: Self = Self { colored: false };
    /// ANSI colours.
    pub const COLORED: Self = Self { colored: true };

    /// For a stream of this process, by its environment.
    pub fn for_stream(choice: ColorChoice, stream: &impl IsTerminal) -> Self {
        Self::decide(choice, stream.is_terminal(), |name| std::env::var(name).ok())
    }

    /// By <https://no-color.org> and <https://bixense.com/clicolors>: an explicit choice wins, then a non-empty NO_COLOR, then
    /// CLICOLOR_FORCE, then whether it is a terminal that can (not `TERM=dumb`, not CLICOLOR=0).
    pub fn decide(choice: ColorChoice, terminal: bool, env: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| env(name).is_some_and(|value| !value.is_empty() && value != "0");
        let colored = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if env("NO_COLOR").is_some_and(|value| !value.is_empty()) => false,
            ColorChoice::Auto if set("CLICOLOR_FORCE") => true,
            ColorChoice::Auto => {
                terminal && env("CLICOLOR").as_deref() != Some("0") && env("TERM").as_deref() != Some("dumb")
            }
        };
        Self { colored }
    }

    /// There are colours.
    pub fn is_colored(self) -> bool {
        self.colored
    }

    /// Appends `text` as `role` looks.
    pub(super) fn paint(self, out: &mut String, role: Role, text: &str) {
        let code = match role {
            Role::Plain => "",
            Role::Bad => "1;31",
            Role::Good => "1;32",
            Role::Warn => "1;33",
            Role::Strong => "1",
            Role::Own => "1",
            Role::Place => "36",
            Role::Remedy => "1;32",
            Role::Dim => "2",
        };
        if !self.colored || code.is_empty() || text.trim().is_empty() {
            out.push_str(text);
        } else {
            out.push_str("\x1b[");
            out.push_str(code);
            out.push('m');
            out.push_str(text);
            out.push_str("\x1b[0m");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Env = &'static [(&'static str, &'static str)];

    fn decide(choice: ColorChoice, terminal: bool, env: Env) -> bool {
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        Style::decide(choice, terminal, env).colored
    }

    #[test]
    fn colour_follows_choice_then_environment_then_terminal() {
        use ColorChoice::*;
        let table: [(ColorChoice, bool, Env, bool); 13] = [
            (Auto, true, &[], true),
            (Auto, false, &[], false),
            (Auto, true, &[("NO_COLOR", "1")], false),
            (Auto, true, &[("NO_COLOR", "")], true),
            (Auto, true, &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], false),
            (Auto, false, &[("CLICOLOR_FORCE", "1")], true),
            (Auto, false, &[("CLICOLOR_FORCE", "0")], false),
            (Auto, true, &[("CLICOLOR", "0")], false),
            (Auto, true, &[("TERM", "dumb")], false),
            (Auto, true, &[("TERM", "xterm")], true),
            (Always, false, &[("NO_COLOR", "1")], true),
            (Never, true, &[("CLICOLOR_FORCE", "1")], false),
            (Auto, false, &[("CLICOLOR_FORCE", "")], false),
        ];
        for (choice, terminal, env, expected) in table {
            assert_eq!(decide(choice, terminal, env), expected, "{choice:?} {terminal} {env:?}");
        }
    }

    #[test]
    fn plain_style_writes_no_escapes() {
        let (mut plain, mut colored) = (String::new(), String::new());
        Style::PLAIN.paint(&mut plain, Role::Bad, "x");
        Style::COLORED.paint(&mut colored, Role::Bad, "x");
        assert_eq!((plain.as_str(), colored.as_str()), ("x", "\x1b[1;31mx\x1b[0m"));
    }
}
