use std::time::{Duration, UNIX_EPOCH};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::*;
use crate::render::columns::Columns;
use crate::render::golden::golden;
use crate::report::model::{Class, Frame as StackFrame, Group};
use crate::report::sample;
use crate::top::app::Order;
use crate::top::link::Update;
use crate::top::model::tests::{checked, groups, process};

const SIZES: [(u16, u16); 4] = [(120, 30), (80, 24), (60, 14), (40, 10)];

fn drawn_with(app: &mut App, (width, height): (u16, u16), is_colored: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    let now = Now { at_s: 12.0, time: UNIX_EPOCH + Duration::from_secs(1_000_033) };
    terminal.draw(|frame| draw(frame, app, Theme { is_colored }, now)).expect("a screen");
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let rows = buffer.content.chunks(width.max(1));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned() + "\n").collect()
}

fn drawn(app: &mut App, size: (u16, u16)) -> String {
    text(&drawn_with(app, size, true))
}

fn state(at: u64) -> Process {
    let mut state = process(3 + at);
    let column: Vec<u64> = (0..60).map(|n| 20 + n % 5 + n / 10).collect();
    let line = Columns { dt: 4.0, frames: [column.clone(), column.clone(), column], ..Columns::default() };
    state.line = Some(line);
    let numbers = state.numbers.get_or_insert_default();
    (numbers.payload_bytes, numbers.blocks, numbers.frames_allocated) = (4_000_000, 12_345, 1000 + at * 25);
    state
}

/// `looks` seconds of a server that leaks a frame a second.
fn app(looks: u64, is_checked: bool) -> App {
    let mut app = App::new(Duration::from_secs(1), None, false);
    for at in 0..looks {
        let mut state = state(at);
        if is_checked {
            state = checked(state, "1970-01-12T13:46:40Z", groups());
        }
        app.update(Update::State(Ok(Box::new(state))), at as f64);
    }
    app
}

fn press(app: &mut App, code: KeyCode) -> Option<Order> {
    app.key(KeyEvent::new(code, KeyModifiers::NONE), 12.0)
}

fn group() -> Group {
    let held = sample::leaking().groups.into_iter().find(|group| !group.freed_elsewhere.is_empty());
    held.expect("a group with siblings")
}

fn opened() -> App {
    let mut app = app(12, true);
    press(&mut app, KeyCode::Char('o'));
    let Some(Order::Groups(identity)) = press(&mut app, KeyCode::Enter) else { panic!("no row was opened") };
    app.update(Update::Groups(identity, Ok((vec![group()], 240.0))), 12.0);
    app
}

#[test]
fn screens_are_as_they_were_looked_at() {
    for size in SIZES {
        let name = |what: &str| format!("top-{what}-{}x{}.txt", size.0, size.1);
        golden(&name("checked"), &drawn(&mut app(12, true), size));
        golden(&name("stack"), &drawn(&mut opened(), size));
    }
    golden("top-unchecked-80x24.txt", &drawn(&mut app(12, false), (80, 24)));
    let mut helped = app(1, false);
    press(&mut helped, KeyCode::Char('?'));
    golden("top-help-80x24.txt", &drawn(&mut helped, (80, 24)));
    let mut choice = App::new(Duration::from_secs(1), None, true);
    let other = Process { pid: 99_999, process: "a_process_with_a_very_long_name".into(), ..state(0) };
    choice.update(Update::All(vec![checked(state(1), "10:00", groups()), other]), 1.0);
    press(&mut choice, KeyCode::Down);
    golden("top-choice-80x24.txt", &drawn(&mut choice, (80, 24)));
}

#[test]
fn no_size_is_too_small() {
    for (width, height) in (0..30).flat_map(|width| (0..14).map(move |height| (width, height))).chain([(500, 200)]) {
        let mut choice = App::new(Duration::from_secs(1), None, true);
        choice.update(Update::All(vec![state(0)]), 1.0);
        let mut helped = app(1, false);
        helped.help = true;
        for app in [&mut app(12, true), &mut opened(), &mut choice, &mut helped] {
            drawn(app, (width, height));
            app.recent = true;
            drawn(app, (width, height));
        }
    }
}

/// Whoever is looked at chooses the names of its files and functions.
#[test]
fn names_cannot_drive_the_terminal() {
    let evil = "\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{9b}31m\u{202e}end";
    let mut app = App::new(Duration::from_secs(1), None, false);
    let mut state = checked(state(0), "1970-01-12T13:46:40Z", groups());
    // As if its analyzer had not cleaned them.
    state.process = evil.into();
    for living in &mut state.living {
        living.place = format!("{evil} ({evil}:1)");
    }
    if let Some(last) = &mut state.last {
        (last.finding, last.reason, last.verdict) = (evil.into(), evil.into(), Verdict::Inconclusive);
        last.groups.iter_mut().for_each(|row| row.object = evil.into());
    }
    app.update(Update::State(Ok(Box::new(state))), 0.0);
    app.model.everything = true;
    app.contact = Contact::Lost(evil.into());
    let mut screens = drawn(&mut app, (120, 30));
    let Some(Order::Groups(identity)) = press(&mut app, KeyCode::Enter) else { panic!("no row was opened") };
    let frame =
        StackFrame { function: Some(evil.into()), file: Some(evil.into()), line: Some(1), ..StackFrame::default() };
    let evil_group = Group { object: evil.into(), stack: vec![frame], ..group() };
    app.update(Update::Groups(identity, Ok((vec![evil_group], 1.0))), 1.0);
    screens += &drawn(&mut app, (120, 30));
    let mut choice = App::new(Duration::from_secs(1), None, true);
    choice.update(Update::All(vec![Process { process: evil.into(), ..process(0) }]), 1.0);
    screens += &drawn(&mut choice, (120, 30));
    assert!(screens.contains("end"), "{screens}");
    let bad = |letter: char| letter.is_control() && letter != '\n' || ('\u{202a}'..='\u{202e}').contains(&letter);
    assert!(!screens.contains(bad), "{screens:?}");
}

#[test]
fn without_colours_there_are_none() {
    let has_colours = |is_colored| {
        let buffer = drawn_with(&mut app(12, true), (120, 30), is_colored);
        buffer.content.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(has_colours(true) && !has_colours(false));
}

#[test]
fn what_is_wrong_is_said_and_the_last_figures_stay() {
    let mut app = app(12, true);
    app.update(Update::State(Err("the analyzer of pid 812 does not answer: is it stopped?".into())), 12.0);
    let screen = drawn(&mut app, (120, 30));
    assert!(
        screen.contains("no answer") && screen.contains("is it stopped?") && screen.contains("server.c:90"),
        "{screen}"
    );
    app.update(Update::Ended, 13.0);
    let screen = drawn(&mut app, (120, 30));
    assert!(screen.contains("ended: this is how it was") && screen.contains("server.c:90"), "{screen}");
    let mut late = self::app(1, false);
    assert!(drawn(&mut late, (120, 30)).contains("no answer for 12 s"));
    late.paused = true;
    late.answered_s = Some(11.5);
    assert!(drawn(&mut late, (120, 30)).contains("stands still"));
}

#[test]
fn a_check_says_how_far_it_is_and_what_it_cost() {
    let mut app = app(12, false);
    assert!(drawn(&mut app, (120, 30)).contains("not checked yet"));
    app.checking_s = Some(10.5);
    assert!(drawn(&mut app, (120, 30)).contains("checking … 1.5 s"));
    let done = checked(state(12), "1970-01-12T13:46:40Z", groups());
    app.update(Update::Checked(Ok(Box::new(done))), 12.0);
    let screen = drawn(&mut app, (120, 30));
    assert!(screen.contains("3 frames leaked") && screen.contains("stood still 2.1 ms"), "{screen}");
}

#[test]
fn a_long_table_scrolls_with_the_cursor() {
    let mut app = App::new(Duration::from_secs(1), None, false);
    let mut state = state(0);
    let one = state.living[0].clone();
    state.living = (0..200)
        .map(|n| crate::board::living::Living {
            key: format!("{n:03}"),
            place: format!("f{n:03}"),
            count: 500 - n,
            ..one.clone()
        })
        .collect();
    app.update(Update::State(Ok(Box::new(state))), 0.0);
    assert!(drawn(&mut app, (80, 24)).contains("f000"));
    press(&mut app, KeyCode::End);
    let screen = drawn(&mut app, (80, 24));
    assert!(screen.contains("f199") && !screen.contains("f000"), "{screen}");
    press(&mut app, KeyCode::PageUp);
    press(&mut app, KeyCode::Up);
    assert!(!drawn(&mut app, (80, 24)).contains("f199"));
}

#[test]
fn an_unclassified_stack_says_how_to_have_it_judged() {
    let mut app = opened();
    let Screen::Stack(stack) = &mut app.screen else { panic!("no stack") };
    stack.groups = Some(Ok((vec![Group { class: Class::Unclassified, ..group() }], 3.0)));
    assert!(drawn(&mut app, (120, 30)).contains("not checked yet: c tells"));
}
