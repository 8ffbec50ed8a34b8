//! What each key does.

use std::time::Duration;

use avleak_wire::options;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::app::{App, Order, Screen, Typing, cursor};
use super::model::Sort;

/// How often is asked at most, and at least.
const FASTEST: Duration = Duration::from_millis(250);
const SLOWEST: Duration = Duration::from_secs(64);
/// Longer ones are no names.
const LONGEST_TEXT: usize = 100;

/// What is explained, screen by screen: keys, and what they do.
pub const HELP: [(&str, &str); 20] = [
    ("↑ ↓ PgUp PgDn Home End", "move"),
    ("Enter", "open a row: its stack, where its siblings are freed, who holds it"),
    ("Esc", "back; without a filter"),
    ("c", "check now: tells what is lost (the process stands still for milliseconds)"),
    ("i", "check at an interval"),
    ("l g o p a", "sort by live, growth, lost, pinned, age"),
    ("s r", "sort by the next column; the other way round"),
    ("/", "filter by function, file or type"),
    ("e", "everything: refs, buffers and payload too"),
    ("z", "count changes from now on"),
    ("t", "chart: the whole run, or since avleak top was started"),
    ("+ -", "refresh faster, slower"),
    ("Space", "stand still; the process goes on"),
    ("w", "in a stack: the whole of it, or what matters"),
    ("q Ctrl-C", "leave: the process goes on"),
    ("", ""),
    ("LIVE", "alive now; dim: at the last check (other objects than frames and payload)"),
    ("CHANGE GROWTH", "since z or the start; beyond chance (of --check-interval's monitor, or seen here)"),
    ("LOST", "definitely, indirectly or possibly lost at the last check"),
    ("PINNED", "bytes of buffers that they keep alive"),
];

impl App {
    /// A key.
    pub fn key(&mut self, key: KeyEvent, at_s: f64) -> Option<Order> {
        let with = |modifier| key.modifiers.contains(modifier);
        if with(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Order::Quit),
                KeyCode::Char('z') => Some(Order::Suspend),
                KeyCode::Char('l') => Some(Order::Redraw),
                _ => None,
            };
        }
        if self.typing.is_some() {
            self.typed(key.code);
            return None;
        }
        if self.help {
            self.help = false;
            return (key.code == KeyCode::Char('q')).then_some(Order::Quit);
        }
        match key.code {
            KeyCode::Char('q') => return Some(Order::Quit),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = true,
            KeyCode::Char('+' | '=') => return Some(self.refresh_by(|every| every / 2)),
            KeyCode::Char('-') => return Some(self.refresh_by(|every| every * 2)),
            code => return self.key_of_screen(code, at_s),
        }
        None
    }

    fn key_of_screen(&mut self, code: KeyCode, at_s: f64) -> Option<Order> {
        match (&self.screen, code) {
            (Screen::Choice, KeyCode::Enter | KeyCode::Right) => {
                let pid = self.all.as_ref()?.get(self.scroll)?.pid;
                return Some(Order::Choose(Some(pid)));
            }
            (Screen::Choice | Screen::Stack(_), code) if motion(code, self.page).is_some() => {
                let last = match &self.screen {
                    Screen::Choice => self.all.as_ref().map_or(0, Vec::len).saturating_sub(1),
                    _ => self.lines.saturating_sub(self.page),
                };
                let by = motion(code, self.page).unwrap_or(0);
                self.scroll = self.scroll.min(last).saturating_add_signed(by).min(last);
            }
            (Screen::Choice, _) => {}
            (_, KeyCode::Char('c')) => return self.check(at_s),
            (_, KeyCode::Char('i')) => {
                let so_far = self.interval.map_or_else(String::new, said);
                self.typing = Some(Typing::Interval(so_far, None));
            }
            (_, KeyCode::Char(' ')) => self.paused = !self.paused,
            (Screen::Stack(_), KeyCode::Esc | KeyCode::Backspace | KeyCode::Left) => {
                self.screen = Screen::Groups;
                self.scroll = 0;
            }
            (Screen::Stack(_), KeyCode::Char('w')) => {
                if let Screen::Stack(stack) = &mut self.screen {
                    stack.whole = !stack.whole;
                }
            }
            (Screen::Stack(_), _) => {}
            (Screen::Groups, KeyCode::Enter | KeyCode::Right) => return self.open(),
            (Screen::Groups, KeyCode::Esc | KeyCode::Backspace) => {
                if self.model.filter.is_empty() {
                    return self.has_choice.then_some(Order::Choose(None));
                }
                self.model.filter.clear();
            }
            (Screen::Groups, code) => self.key_of_groups(code, at_s),
        }
        None
    }

    fn key_of_groups(&mut self, code: KeyCode, at_s: f64) {
        let mut sort = |sort| self.model.sort = sort;
        match code {
            KeyCode::Char('l') => sort(Sort::Live),
            KeyCode::Char('g') => sort(Sort::Growth),
            KeyCode::Char('o') => sort(Sort::Lost),
            KeyCode::Char('p') => sort(Sort::Pinned),
            KeyCode::Char('a') => sort(Sort::Age),
            KeyCode::Char('s') | KeyCode::Tab => self.model.sort = self.model.sort.next(),
            KeyCode::Char('r') => self.model.reversed = !self.model.reversed,
            KeyCode::Char('/') => self.typing = Some(Typing::Filter),
            KeyCode::Char('e') => self.model.everything = !self.model.everything,
            KeyCode::Char('t') => self.recent = !self.recent,
            KeyCode::Char('z') => {
                self.model.zero();
                self.zero_s = at_s;
            }
            code => {
                let Some(by) = motion(code, self.page) else { return };
                let entries = self.model.entries();
                let at = cursor(&entries, self.selected.as_ref());
                let at = at.saturating_add_signed(by).min(entries.len().saturating_sub(1));
                // On the first row it stays on the first row, whichever that will be.
                self.selected = entries.into_iter().nth(at).filter(|_| at > 0).map(|entry| entry.identity);
            }
        }
    }

    fn typed(&mut self, code: KeyCode) {
        let text = match &mut self.typing {
            Some(Typing::Filter) => &mut self.model.filter,
            Some(Typing::Interval(text, wrong)) => {
                *wrong = None;
                text
            }
            None => return,
        };
        match code {
            KeyCode::Char(letter) if !letter.is_control() && text.chars().count() < LONGEST_TEXT => text.push(letter),
            KeyCode::Backspace => _ = text.pop(),
            KeyCode::Esc => {
                let ended = self.typing.take();
                if ended == Some(Typing::Filter) {
                    self.model.filter.clear();
                }
            }
            KeyCode::Enter => match self.typing.take() {
                Some(Typing::Interval(text, _)) if matches!(text.trim(), "" | "0" | "off") => self.interval = None,
                Some(Typing::Interval(text, _)) => match options::milliseconds(text.trim()) {
                    Some(ms) => self.interval = Some(Duration::from_millis(ms)),
                    None => self.typing = Some(Typing::Interval(text, Some("a time from 100ms to 24h, such as 10s"))),
                },
                _ => {}
            },
            _ => {}
        }
    }

    fn refresh_by(&mut self, by: impl Fn(Duration) -> Duration) -> Order {
        self.refresh = by(self.refresh).clamp(FASTEST, SLOWEST);
        Order::Refresh(self.refresh)
    }
}

/// As options say it.
pub fn said(time: Duration) -> String {
    let ms = time.as_millis();
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

/// By how many rows a key moves.
fn motion(code: KeyCode, page: usize) -> Option<isize> {
    let page = isize::try_from(page.max(2)).unwrap_or(isize::MAX) - 1;
    match code {
        KeyCode::Up | KeyCode::Char('k') => Some(-1),
        KeyCode::Down | KeyCode::Char('j') => Some(1),
        KeyCode::PageUp => Some(-page),
        KeyCode::PageDown => Some(page),
        KeyCode::Home => Some(isize::MIN),
        KeyCode::End => Some(isize::MAX),
        _ => None,
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
