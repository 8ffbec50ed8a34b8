use super::*;
use crate::top::link::Update;
use crate::top::model::tests::{checked, groups, process};

fn press(app: &mut App, keys: &str) -> Vec<Order> {
    let mut orders = Vec::new();
    for key in keys.split(' ').filter(|key| !key.is_empty()) {
        let (code, modifiers) = match key {
            "enter" => (KeyCode::Enter, KeyModifiers::NONE),
            "esc" => (KeyCode::Esc, KeyModifiers::NONE),
            "down" => (KeyCode::Down, KeyModifiers::NONE),
            "up" => (KeyCode::Up, KeyModifiers::NONE),
            "end" => (KeyCode::End, KeyModifiers::NONE),
            "home" => (KeyCode::Home, KeyModifiers::NONE),
            "space" => (KeyCode::Char(' '), KeyModifiers::NONE),
            "backspace" => (KeyCode::Backspace, KeyModifiers::NONE),
            key => match (key.strip_prefix('^'), key.chars().next()) {
                (Some(letter), _) => (KeyCode::Char(letter.chars().next().expect("a letter")), KeyModifiers::CONTROL),
                (None, Some(letter)) => (KeyCode::Char(letter), KeyModifiers::NONE),
                (None, None) => continue,
            },
        };
        orders.extend(app.key(KeyEvent::new(code, modifiers), 5.0));
    }
    orders
}

fn app() -> App {
    let mut app = App::new(Duration::from_secs(1), None, false);
    let state = checked(process(3), "10:00", groups());
    assert_eq!(app.update(Update::State(Ok(Box::new(state))), 1.0), None);
    app
}

fn at(app: &App) -> String {
    app.entry_under_cursor().map(|entry| entry.identity.0).unwrap_or_default()
}

#[test]
fn who_wants_to_leave_leaves_from_anywhere() {
    for before in ["", "?", "enter", "/ x", "i"] {
        let mut app = app();
        press(&mut app, before);
        assert_eq!(press(&mut app, "^c"), [Order::Quit], "{before}");
    }
    for before in ["", "?", "enter"] {
        let mut app = app();
        press(&mut app, before);
        assert_eq!(press(&mut app, "q"), [Order::Quit], "{before}");
    }
    let mut app = app();
    assert_eq!(press(&mut app, "/ q"), []);
    assert_eq!(app.model.filter, "q");
    assert_eq!(press(&mut app, "^z"), [Order::Suspend]);
}

#[test]
fn the_cursor_stays_on_its_row_and_at_the_top() {
    let mut app = app();
    app.page = 10;
    assert_eq!(at(&app), "aa");
    press(&mut app, "down");
    assert_eq!(at(&app), "bb");
    press(&mut app, "o");
    assert_eq!((app.model.sort, at(&app).as_str()), (Sort::Lost, "bb"));
    press(&mut app, "end down down");
    assert_eq!(at(&app), "ee");
    press(&mut app, "home up");
    assert_eq!((app.selected.clone(), at(&app).as_str()), (None, "bb"));
    press(&mut app, "l");
    assert_eq!(at(&app), "aa");
    press(&mut app, "r");
    assert_eq!(at(&app), "ee");
}

#[test]
fn each_column_has_its_key() {
    let mut app = app();
    for (key, sort) in
        [("g", Sort::Growth), ("o", Sort::Lost), ("p", Sort::Pinned), ("a", Sort::Age), ("l", Sort::Live)]
    {
        press(&mut app, key);
        assert_eq!(app.model.sort, sort);
    }
    press(&mut app, "s s");
    assert_eq!(app.model.sort, Sort::Lost);
    press(&mut app, "e");
    assert_eq!(app.model.entries().len(), 5);
}

#[test]
fn a_check_is_asked_for_once_and_shown() {
    let mut app = app();
    assert_eq!(press(&mut app, "c c"), [Order::Check]);
    assert_eq!(app.checking_s, Some(5.0));
    app.update(Update::Checked(Err("pid 812: it ended".into())), 6.0);
    assert_eq!((app.checking_s, app.note.as_ref().map(|note| note.0.as_str())), (None, Some("pid 812: it ended")));
    assert_eq!(app.tick(60.0), None);
    assert_eq!(app.note, None);
    // Who has it stand still still wants to see what was asked for.
    press(&mut app, "space c");
    app.update(Update::State(Ok(Box::new(process(9)))), 7.0);
    assert!(app.model.process.as_ref().is_some_and(|process| process.last.is_some()));
    app.update(Update::Checked(Ok(Box::new(checked(process(9), "10:05", groups())))), 7.0);
    let started = |app: &App| app.model.process.as_ref()?.last.as_ref().map(|last| last.check.started.clone());
    assert_eq!(started(&app).as_deref(), Some("10:05"));
    app.update(Update::Ended, 8.0);
    assert_eq!(press(&mut app, "c"), []);
}

#[test]
fn an_interval_is_typed_and_kept_to() {
    let mut app = app();
    press(&mut app, "i 1 x enter");
    assert!(matches!(&app.typing, Some(Typing::Interval(text, Some(_))) if text == "1x"), "{:?}", app.typing);
    press(&mut app, "backspace 0 s enter");
    assert_eq!((app.interval, app.typing.clone()), (Some(Duration::from_secs(10)), None));
    assert_eq!(app.tick(5.0), Some(Order::Check));
    assert_eq!(app.tick(6.0), None);
    app.update(Update::Checked(Ok(Box::new(process(3)))), 7.0);
    // It took two seconds: they are left to the process too.
    assert_eq!((app.tick(18.9), app.tick(19.0)), (None, Some(Order::Check)));
    press(&mut app, "i");
    assert!(matches!(&app.typing, Some(Typing::Interval(text, None)) if text == "10s"));
    press(&mut app, "backspace backspace backspace enter");
    assert_eq!(app.interval, None);
}

#[test]
fn a_stack_is_asked_for_and_again_after_a_check() {
    let mut app = app();
    let identity = ("bb".to_string(), "AVFrame".to_string());
    assert_eq!(press(&mut app, "down enter"), [Order::Groups(identity.clone())]);
    assert_eq!(app.update(Update::State(Ok(Box::new(checked(process(3), "10:00", groups())))), 6.0), None);
    app.update(Update::Groups(("other".into(), "AVFrame".into()), Err("another".into())), 6.0);
    assert!(matches!(&app.screen, Screen::Stack(stack) if stack.groups.is_none()));
    app.update(Update::Groups(identity.clone(), Ok((Vec::new(), 3.0))), 6.0);
    app.update(Update::Groups(identity.clone(), Err("it ended".into())), 6.0);
    assert!(matches!(&app.screen, Screen::Stack(stack) if stack.groups == Some(Ok((Vec::new(), 3.0)))));
    let order = app.update(Update::State(Ok(Box::new(checked(process(3), "10:09", groups())))), 7.0);
    assert_eq!(order, Some(Order::Groups(identity.clone())));
    press(&mut app, "w esc");
    assert!(matches!(app.screen, Screen::Groups) && app.selected == Some(identity));
}

#[test]
fn a_filter_is_seen_while_it_is_typed_and_let_go() {
    let mut app = app();
    press(&mut app, "/ l o s e");
    assert_eq!((app.model.entries().len(), at(&app).as_str()), (1, "bb"));
    press(&mut app, "enter l");
    assert_eq!((app.model.filter.as_str(), app.typing.clone()), ("lose", None));
    press(&mut app, "esc");
    assert_eq!((app.model.filter.as_str(), app.model.entries().len()), ("", 3));
    press(&mut app, "/ x esc");
    assert_eq!(app.model.filter, "");
    for _ in 0..1000 {
        press(&mut app, "/ y");
    }
    assert!(app.model.filter.len() <= LONGEST_TEXT);
}

#[test]
fn one_of_several_is_chosen_and_there_is_a_way_back() {
    let mut app = App::new(Duration::from_secs(1), None, true);
    assert_eq!(press(&mut app, "enter c"), []);
    app.update(Update::All(vec![process(1), crate::board::state::Process { pid: 7, ..process(2) }]), 1.0);
    assert_eq!(press(&mut app, "down down enter"), [Order::Choose(Some(7))]);
    app.choose(Some(7), 2.0);
    app.update(Update::State(Ok(Box::new(process(2)))), 3.0);
    assert!(matches!(app.screen, Screen::Groups));
    assert_eq!(press(&mut app, "esc"), [Order::Choose(None)]);
    app.choose(None, 4.0);
    assert!(matches!(app.screen, Screen::Choice) && app.all.as_ref().is_some_and(|all| all.len() == 2));
    let mut only = self::app();
    assert_eq!(press(&mut only, "esc"), []);
}

#[test]
fn looks_come_faster_and_slower() {
    let mut app = app();
    assert_eq!(press(&mut app, "+"), [Order::Refresh(Duration::from_millis(500))]);
    assert_eq!(press(&mut app, "+ +").pop(), Some(Order::Refresh(FASTEST)));
    for _ in 0..20 {
        press(&mut app, "-");
    }
    assert_eq!(app.refresh, SLOWEST);
    assert_eq!((said(Duration::from_millis(250)), said(SLOWEST)), ("250ms".into(), "64s".into()));
}
