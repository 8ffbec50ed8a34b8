//! The progress line of a long check, on stderr, only on a terminal and only after a moment.

use super::units::bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A check that is done sooner shows nothing.
const PATIENCE: Duration = Duration::from_millis(300);

/// `checking server (pid 812): 1.2 GiB of 4.0 GiB`, with a bar. Shared by the threads of a check; gone when dropped.
pub struct Progress {
    bar: ProgressBar,
    label: String,
    started: Instant,
    patience: Duration,
    shown: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    target: fn() -> ProgressDrawTarget,
}

impl Progress {
    /// For the check of a process, `total` bytes to read (0: not known yet). `quiet`, or a stderr that is no terminal, keeps it
    /// silent.
    pub fn of_check(program: &str, pid: u32, total: u64, quiet: bool) -> Self {
        let silent = quiet || !std::io::stderr().is_terminal();
        let target = if silent { ProgressDrawTarget::hidden } else { ProgressDrawTarget::stderr };
        Self::new(format!("checking {program} (pid {pid})"), total, PATIENCE, target)
    }

    /// Shows nothing, ever.
    pub fn hidden() -> Self {
        Self::new(String::new(), 0, PATIENCE, ProgressDrawTarget::hidden)
    }

    fn new(label: String, total: u64, patience: Duration, target: fn() -> ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar:.dim}") {
            bar.set_style(style.progress_chars("━╸ "));
        }
        let label = label.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let (done, total) = (AtomicU64::new(0), AtomicU64::new(total));
        Self { bar, label, started: Instant::now(), patience, shown: AtomicBool::new(false), done, total, target }
    }

    /// How many bytes there are to read in all, where it turns out later.
    pub fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.draw();
    }

    /// So many more bytes were read.
    pub fn advance(&self, more: u64) {
        self.done.fetch_add(more, Ordering::Relaxed);
        self.draw();
    }

    fn draw(&self) {
        if self.started.elapsed() < self.patience {
            return;
        }
        if !self.shown.swap(true, Ordering::Relaxed) {
            self.bar.set_draw_target((self.target)());
        }
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        self.bar.set_length(total.max(done));
        self.bar.set_position(done);
        self.bar.set_message(message(&self.label, done, total));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn message(label: &str, done: u64, total: u64) -> String {
    match total {
        0 => format!("{label}: {}", bytes(done)),
        total => format!("{label}: {} of {}", bytes(done.min(total)), bytes(total)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    static SCREEN: Mutex<String> = Mutex::new(String::new());

    #[derive(Debug)]
    struct Screen;

    impl indicatif::TermLike for Screen {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> std::io::Result<()> {
            SCREEN.lock().map_err(|_| std::io::Error::other("poisoned"))?.push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> std::io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn screen() -> ProgressDrawTarget {
        ProgressDrawTarget::term_like(Box::new(Screen))
    }

    #[test]
    fn a_quick_check_shows_nothing_and_a_long_one_a_line() {
        let quick = Progress::new("quick".to_string(), 100, Duration::from_secs(3600), screen);
        quick.advance(50);
        drop(quick);
        assert_eq!(SCREEN.lock().unwrap().as_str(), "");

        let long = Progress::new("checking a\x1bb (pid 812)".to_string(), 4 << 30, Duration::ZERO, screen);
        long.advance(1_288_490_189);
        drop(long);
        let seen = SCREEN.lock().unwrap().clone();
        assert!(seen.contains("checking a?b (pid 812): 1.2 GiB of 4 GiB"), "{seen:?}");
    }

    #[test]
    fn an_unknown_total_is_not_made_up() {
        assert_eq!(message("checking", 1 << 20, 0), "checking: 1 MiB");
        assert_eq!(message("checking", 5 << 20, 1 << 20), "checking: 1 MiB of 1 MiB");
    }
}
