//! What is on the screen, and what keys and news do to it. It neither draws nor asks: it says what is to be asked.

use std::time::Duration;

use super::link::Update;
use super::model::{Entry, Identity, Model};
use crate::board::state::Process;
use crate::report::model::Group;

/// What is to be done, beside drawing.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Leave.
    Quit,
    /// Stop, as a shell's job.
    Suspend,
    /// Draw all of it anew.
    Redraw,
    /// Have the process checked.
    Check,
    /// Ask for these groups.
    Groups(Identity),
    /// Look at this process; `None`: at the list of them.
    Choose(Option<i32>),
    /// Ask so often.
    Refresh(Duration),
}

/// What is shown.
#[derive(Debug)]
pub enum Screen {
    /// The processes, to choose one.
    Choice,
    /// A process.
    Groups,
    /// One of its rows.
    Stack(Box<Stack>),
}

/// A row that is looked at more closely.
#[derive(Debug)]
pub struct Stack {
    /// Which.
    pub identity: Identity,
    /// As it last was in the table.
    pub entry: Option<Entry>,
    /// What is known; `None`: it is on its way.
    pub groups: Option<Result<(Vec<Group>, f64), String>>,
    /// The check that was the last one when it was asked for.
    pub of_check: Option<String>,
    /// Whole stacks.
    pub whole: bool,
}

/// How far the process can be asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Contact {
    /// It answers.
    Fine,
    /// It did not: why.
    Lost(String),
    /// It is gone.
    Ended,
}

/// What is being typed.
#[derive(Debug, Clone, PartialEq)]
pub enum Typing {
    /// What rows have to hold.
    Filter,
    /// How often is checked; so far, and what is wrong with it.
    Interval(String, Option<&'static str>),
}

/// See the module.
#[derive(Debug)]
pub struct App {
    /// The process.
    pub model: Model,
    /// What is shown.
    pub screen: Screen,
    /// The processes that there are, where one is to be chosen.
    pub all: Option<Vec<Process>>,
    /// The process was chosen here: there is a way back.
    pub has_choice: bool,
    /// Keys are explained.
    pub help: bool,
    /// Something is being typed.
    pub typing: Option<Typing>,
    /// The row that the cursor is on; `None`: the first, whichever that is.
    pub selected: Option<Identity>,
    /// Lines of a stack, or processes, that are above the screen or the cursor.
    pub scroll: usize,
    /// So many fit; as it was drawn last.
    pub page: usize,
    /// So many lines there are; as it was drawn last.
    pub lines: usize,
    /// How far the process can be asked.
    pub contact: Contact,
    /// The last answer, seconds since the start.
    pub answered_s: Option<f64>,
    /// Since when a check is under way that was asked for here.
    pub checking_s: Option<f64>,
    /// When the last one was done.
    pub checked_s: Option<f64>,
    /// How often is checked.
    pub interval: Option<Duration>,
    /// How often is asked.
    pub refresh: Duration,
    /// What is shown stays.
    pub paused: bool,
    /// The chart shows the looks from here, not the whole run.
    pub recent: bool,
    /// A line for whoever looks, and until when.
    pub note: Option<(String, f64)>,
    /// Changes are counted from here.
    pub zero_s: f64,
}

/// How long a line for whoever looks stays.
const NOTE_S: f64 = 8.0;
/// A check is begun so many times as long after the last one as that took, at least.
const REST: f64 = 1.0;

impl App {
    /// Of one process, or of a choice of them.
    pub fn new(refresh: Duration, interval: Option<Duration>, is_choice: bool) -> Self {
        Self {
            model: Model::default(),
            screen: if is_choice { Screen::Choice } else { Screen::Groups },
            all: None,
            has_choice: is_choice,
            help: false,
            typing: None,
            selected: None,
            scroll: 0,
            page: 1,
            lines: 0,
            contact: Contact::Fine,
            answered_s: None,
            checking_s: None,
            checked_s: None,
            interval,
            refresh,
            paused: false,
            recent: false,
            note: None,
            zero_s: 0.0,
        }
    }

    /// Another process is looked at, or the list of them.
    pub fn choose(&mut self, pid: Option<i32>, at_s: f64) {
        let before = std::mem::replace(self, Self::new(self.refresh, self.interval, pid.is_none()));
        self.has_choice = true;
        self.all = before.all;
        self.zero_s = at_s;
        self.model.sort = before.model.sort;
        self.model.everything = before.model.everything;
    }

    /// Something came in.
    pub fn update(&mut self, update: Update, at_s: f64) -> Option<Order> {
        match update {
            Update::State(Ok(process)) => {
                self.contact = Contact::Fine;
                self.answered_s = Some(at_s);
                if !self.paused {
                    return self.see(*process, at_s);
                }
            }
            Update::State(Err(line)) => self.contact = Contact::Lost(line),
            Update::Ended => {
                self.contact = Contact::Ended;
                self.checking_s = None;
            }
            Update::Checked(outcome) => {
                let took = self.checking_s.take().map(|begun| at_s - begun);
                // One that failed is not begun again at once.
                self.checked_s = Some(at_s + took.unwrap_or(0.0) * REST);
                match outcome {
                    // Whoever asks for a check while the screen stands still wants to see it.
                    Ok(process) => return self.see(*process, at_s),
                    Err(line) if self.contact != Contact::Ended => self.note = Some((line, at_s + NOTE_S)),
                    Err(_) => {}
                }
            }
            Update::Groups(identity, found) => {
                if let Screen::Stack(stack) = &mut self.screen
                    && stack.identity == identity
                {
                    // What was seen stays where there is nothing new.
                    if found.is_ok() || !matches!(stack.groups, Some(Ok(_))) {
                        stack.groups = Some(found);
                    }
                }
            }
            Update::All(all) => {
                self.answered_s = Some(at_s);
                self.all = Some(all);
            }
        }
        None
    }

    fn see(&mut self, process: Process, at_s: f64) -> Option<Order> {
        self.model.see(process, at_s);
        let check = self.last_check();
        let Screen::Stack(stack) = &mut self.screen else { return None };
        stack.entry = self.model.entry(&stack.identity).or(stack.entry.take());
        // A check says more, and something else.
        (stack.of_check != check).then(|| {
            stack.of_check = check;
            Order::Groups(stack.identity.clone())
        })
    }

    /// Time has gone by: what is due now.
    pub fn tick(&mut self, at_s: f64) -> Option<Order> {
        if self.note.as_ref().is_some_and(|(_, until_s)| at_s > *until_s) {
            self.note = None;
        }
        let interval = self.interval?.as_secs_f64();
        let is_due = self.checked_s.is_none_or(|checked_s| at_s >= checked_s + interval);
        if is_due && self.can_check() { self.check(at_s) } else { None }
    }

    fn can_check(&self) -> bool {
        self.checking_s.is_none()
            && self.contact == Contact::Fine
            && self.answered_s.is_some()
            && !matches!(self.screen, Screen::Choice)
    }

    /// A check is asked for.
    pub fn check(&mut self, at_s: f64) -> Option<Order> {
        if !self.can_check() {
            return None;
        }
        self.checking_s = Some(at_s);
        self.note = None;
        Some(Order::Check)
    }

    /// Opens the row under the cursor.
    pub fn open(&mut self) -> Option<Order> {
        let entry = self.entry_under_cursor()?;
        let identity = entry.identity.clone();
        // What is not named yet is no one stack.
        if identity.0.is_empty() {
            return None;
        }
        self.selected = Some(identity.clone());
        self.scroll = 0;
        let of_check = self.last_check();
        self.screen = Screen::Stack(Box::new(Stack {
            identity: identity.clone(),
            entry: Some(entry),
            groups: None,
            of_check,
            whole: false,
        }));
        Some(Order::Groups(identity))
    }

    fn last_check(&self) -> Option<String> {
        Some(self.model.process.as_ref()?.last.as_ref()?.check.started.clone())
    }

    /// The row under the cursor.
    pub fn entry_under_cursor(&self) -> Option<Entry> {
        let entries = self.model.entries();
        let at = cursor(&entries, self.selected.as_ref());
        entries.into_iter().nth(at)
    }
}

/// Where in the rows the cursor is.
pub fn cursor(entries: &[Entry], selected: Option<&Identity>) -> usize {
    selected.and_then(|selected| entries.iter().position(|entry| entry.identity == *selected)).unwrap_or(0)
}
