//! A terminal of a real size, by tmux: keys go in, the screen is read. In it runs a shell with job control.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::avleak::LIMIT;
use crate::process::{self, Running};
use crate::scratch;

/// What the shell writes when it waits for a command.
pub const PROMPT: &str = "ready>";
/// From look to look at a screen that is waited for.
const BETWEEN: Duration = Duration::from_millis(50);

/// See the module. Dropping it ends everything in it.
pub struct Terminal {
    _server: Running,
    folder: tempfile::TempDir,
}

impl Terminal {
    /// One of this size, whose shell is ready.
    pub fn start(columns: u32, lines: u32) -> Self {
        let folder = scratch();
        let mut command = Command::new("tmux");
        // In the foreground: so it belongs to this test, and ends with it.
        command.arg("-D").args(["-u", "-f", "/dev/null", "-S"]).arg(folder.path().join("socket"));
        command.env("LC_ALL", "C.UTF-8").env("PS1", format!("{PROMPT} ")).env_remove("TMUX").env_remove("NO_COLOR");
        let terminal = Self { _server: process::start(&mut command, LIMIT), folder };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let shell = ["bash", "--norc", "--noprofile", "-i"];
        let session = ["new-session", "-d", "-x", &columns, "-y", &lines].into_iter().chain(shell);
        let session: Vec<&str> = session.collect();
        let until = Instant::now() + LIMIT;
        while !terminal.command(&session).status.success() {
            assert!(Instant::now() < until, "tmux does not start");
            std::thread::sleep(BETWEEN);
        }
        terminal.wait_for(PROMPT);
        terminal
    }

    fn command(&self, arguments: &[&str]) -> process::Finished {
        let mut command = Command::new("tmux");
        // Never a server of its own: where that of `start` is not there yet, this fails.
        process::run(
            command.arg("-N").arg("-u").arg("-S").arg(self.folder.path().join("socket")).args(arguments),
            LIMIT,
        )
    }

    fn told(&self, arguments: &[&str]) -> String {
        self.command(arguments).expect_success().text()
    }

    /// Presses keys, by tmux's names: `Enter`, `C-c`, `Down`, `q`.
    pub fn keys(&self, keys: &[&str]) {
        self.told(&[&["send-keys"], keys].concat());
    }

    /// Types a command.
    pub fn run(&self, line: &str) {
        self.told(&["send-keys", "-l", line]);
        self.keys(&["Enter"]);
    }

    /// The screen as it is.
    pub fn screen(&self) -> String {
        self.told(&["capture-pane", "-p"])
    }

    /// Waits for a screen that holds this.
    pub fn wait_for(&self, part: &str) -> String {
        self.wait_until(part, |screen| screen.contains(part))
    }

    /// Waits for a screen that is as wanted.
    pub fn wait_until(&self, what: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < until, "no screen with {what:?}; the last one:\n{screen}");
            std::thread::sleep(BETWEEN);
        }
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, columns: u32, lines: u32) {
        self.told(&["resize-window", "-x", &columns.to_string(), "-y", &lines.to_string()]);
    }

    /// Everything that is written to it from now on goes into this file too, byte by byte.
    pub fn record(&self) -> PathBuf {
        let file = self.folder.path().join("written");
        self.told(&["pipe-pane", "-o", &format!("cat >>'{}'", file.display())]);
        file
    }
}
