//! `avleak top`: a running process in a terminal, as the page of HTTP shows it in a browser.
//!
//! [`link`] asks the process's analyzer, at the door at which `avleak check` asks too · [`model`] what came, joined to rows, with
//! [`track`] their counts over time · [`app`] what is on the screen, with [`keys`] what each key does · [`draw`] draws it, with [`chart`],
//! [`table`], [`pages`] its parts and [`theme`] its colours · [`terminal`] is taken over and given back.
//!
//! Looks neither check nor stop the process; a check comes when it is asked for. What comes from the process is somebody else's text:
//! it becomes part of the screen in one place, [`theme`], which cleans it, and ratatui writes no control character.

pub mod app;
mod chart;
mod draw;
mod keys;
pub mod link;
pub mod model;
mod pages;
mod table;
mod terminal;
mod theme;
mod track;

use std::time::{Duration, Instant, SystemTime};

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::app::{App, Order};
use self::draw::Now;
use self::link::Link;
pub use self::terminal::die_of;
use self::terminal::{Screen, Signals};
use self::theme::Theme;
use crate::render::errno;

/// News and signals wait for at most so long; keys are seen at once.
const TURN: Duration = Duration::from_millis(50);
/// The clocks on the screen go on at least so often.
const SECOND: Duration = Duration::from_secs(1);
/// While a check is under way its seconds have tenths.
const TENTH: Duration = Duration::from_millis(100);

/// How it begins.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The process; `None`: one is to be chosen.
    pub pid: Option<i32>,
    /// From look to look.
    pub refresh: Duration,
    /// From check to check.
    pub interval: Option<Duration>,
    /// With colours.
    pub is_colored: bool,
}

/// Shows it until somebody leaves. The signal that ended it, if one did: the terminal is given back by then.
///
/// # Errors
/// A line: the terminal cannot be used.
pub fn run(options: &Options) -> Result<Option<i32>, String> {
    let cannot = |error: std::io::Error| format!("cannot use this terminal: {}", errno::name(&error));
    let signals = Signals::watch().map_err(cannot)?;
    let link = Link::start(options.pid, options.refresh).map_err(cannot)?;
    let app = App::new(options.refresh, options.interval, options.pid.is_none());
    let mut top = Top { app, link, begun: Instant::now(), theme: Theme { is_colored: options.is_colored } };
    // crossterm has an opinion of its own, by NO_COLOR; what was decided here holds.
    ratatui::crossterm::style::force_color_output(options.is_colored);
    let mut screen = Screen::take().map_err(cannot)?;
    let outcome = top.run(&mut screen, &signals);
    drop(screen);
    outcome.map_err(cannot)
}

struct Top {
    app: App,
    link: Link,
    begun: Instant,
    theme: Theme,
}

impl Top {
    fn run(&mut self, screen: &mut Screen, signals: &Signals) -> std::io::Result<Option<i32>> {
        let mut drawn: Option<Instant> = None;
        loop {
            if let Some(signal) = signals.ending() {
                return Ok(Some(signal));
            }
            if signals.asks_to_stop() {
                screen.suspend()?;
                drawn = None;
            }
            if signals.goes_on() {
                screen.retake()?;
                drawn = None;
            }
            let mut orders: Vec<Order> = Vec::new();
            let mut news = false;
            while let Ok(update) = self.link.updates().try_recv() {
                news = true;
                let at_s = self.at_s();
                orders.extend(self.app.update(update, at_s));
            }
            let at_s = self.at_s();
            orders.extend(self.app.tick(at_s));
            let patience = if self.app.checking_s.is_some() { TENTH } else { SECOND };
            if news || drawn.is_none_or(|drawn| drawn.elapsed() >= patience) {
                self.draw(screen)?;
                drawn = Some(Instant::now());
            }
            // All that was typed meanwhile, before it is drawn.
            let mut pause = if orders.is_empty() { TURN } else { Duration::ZERO };
            while event::poll(pause)? {
                pause = Duration::ZERO;
                drawn = None;
                if let Event::Key(key) = event::read()?
                    && key.kind != KeyEventKind::Release
                {
                    let at_s = self.at_s();
                    orders.extend(self.app.key(key, at_s));
                }
            }
            for order in orders {
                if order == Order::Quit {
                    return Ok(None);
                }
                self.follow(order, screen)?;
                drawn = None;
            }
        }
    }

    fn follow(&mut self, order: Order, screen: &mut Screen) -> std::io::Result<()> {
        match order {
            Order::Quit => {}
            Order::Suspend => screen.suspend()?,
            Order::Redraw => screen.terminal().clear()?,
            Order::Check => self.link.check(),
            Order::Groups(identity) => self.link.groups(identity),
            Order::Choose(pid) => {
                self.link = Link::start(pid, self.app.refresh)?;
                let at_s = self.at_s();
                self.app.choose(pid, at_s);
            }
            Order::Refresh(every) => self.link.refresh(every),
        }
        Ok(())
    }

    fn draw(&mut self, screen: &mut Screen) -> std::io::Result<()> {
        let now = Now { at_s: self.at_s(), time: SystemTime::now() };
        let (app, theme) = (&mut self.app, self.theme);
        screen.terminal().draw(|frame| draw::draw(frame, app, theme, now)).map(drop)
    }

    fn at_s(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}
