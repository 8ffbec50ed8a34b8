//! The terminal: taken over, and given back as it was, however this ends.

use std::io::Stdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::low_level::emulate_default_handler;

/// The screen while it is ours. Dropping it gives it back; so does a panic, by the hook that ratatui sets.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes it over.
    ///
    /// # Errors
    /// Where that is no terminal.
    pub fn take() -> std::io::Result<Self> {
        Ok(Self { terminal: ratatui::try_init()? })
    }

    /// To draw on.
    pub fn terminal(&mut self) -> &mut Terminal<CrosstermBackend<Stdout>> {
        &mut self.terminal
    }

    /// Takes it over anew: somebody else had it.
    ///
    /// # Errors
    /// As of [`Self::take`].
    pub fn retake(&mut self) -> std::io::Result<()> {
        // Else it is taken to be as it was left.
        disable_raw_mode()?;
        enable_raw_mode()?;
        ratatui::crossterm::execute!(
            std::io::stdout(),
            ratatui::crossterm::terminal::EnterAlternateScreen,
            ratatui::crossterm::cursor::Hide
        )?;
        self.terminal.clear()
    }

    /// Gives it back, and stops as a job of the shell does; comes back when that goes on.
    ///
    /// # Errors
    /// As of [`Self::take`].
    pub fn suspend(&mut self) -> std::io::Result<()> {
        give_back();
        emulate_default_handler(SIGTSTP)?;
        self.retake()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // ratatui hides the cursor while it draws, and shows it when it is dropped: a panic or a stop comes before that.
    let _ = ratatui::crossterm::execute!(std::io::stdout(), ratatui::crossterm::cursor::Show);
    ratatui::restore();
}

/// Signals that came in.
pub struct Signals {
    ending: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    go_on: Arc<AtomicBool>,
}

impl Signals {
    /// They are noted from now on, and do nothing else.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn watch() -> std::io::Result<Self> {
        let signals = Self { ending: Arc::default(), stop: Arc::default(), go_on: Arc::default() };
        for signal in [SIGTERM, SIGHUP, SIGINT, SIGQUIT] {
            let number = usize::try_from(signal).unwrap_or(0);
            signal_hook::flag::register_usize(signal, signals.ending.clone(), number)?;
        }
        signal_hook::flag::register(SIGTSTP, signals.stop.clone())?;
        signal_hook::flag::register(SIGCONT, signals.go_on.clone())?;
        Ok(signals)
    }

    /// The one that asks for an end.
    pub fn ending(&self) -> Option<i32> {
        i32::try_from(self.ending.load(Ordering::Acquire)).ok().filter(|&signal| signal != 0)
    }

    /// A stop was asked for since the last call.
    pub fn asks_to_stop(&self) -> bool {
        self.stop.swap(false, Ordering::AcqRel)
    }

    /// It was stopped, and goes on, since the last call.
    pub fn goes_on(&self) -> bool {
        self.go_on.swap(false, Ordering::AcqRel)
    }
}

/// Ends as if the signal had not been noted.
pub fn die_of(signal: i32) {
    // It returns where the signal's default is something else: then there is an exit status.
    let _ = emulate_default_handler(signal);
}
