//! Golden tests of the difference's text.

use super::*;
use crate::gate::diff::{Measure, diff};
use crate::render::load::AnyReport;
use crate::render::style::Style;
use crate::render::{flow::width, json};
use crate::report::model::Report;
use crate::report::sample;
use std::path::Path;

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden").join(name);
    if std::env::var_os("AVLEAK_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap(), "{name}");
}

fn of(a: Report, b: Report) -> Diff {
    let one = |report| AnyReport::Process(Box::new(report));
    diff(("main.json", &one(a)), ("branch.json", &one(b)), Measure::default())
}

/// Something of everything.
fn mixed() -> Diff {
    let mut before = sample::leaking();
    let mut gone = before.groups[1].clone();
    gone.id = "00000000000000cc".into();
    gone.stack[2].function = Some("gone_by_now".into());
    let mut same = before.groups[1].clone();
    same.id = "00000000000000dd".into();
    same.stack[2].function = Some("as_ever".into());
    before.groups.extend([gone, same.clone()]);
    let mut after = sample::leaking();
    after.groups[0].count = 44;
    after.groups[0].id = "00000000000000aa".into();
    after.groups[0].stack[1].line = Some(93);
    after.groups[1].count = 3;
    after.groups[1].outermost = 3;
    let mut new = after.groups[0].clone();
    new.id = "00000000000000bb".into();
    new.stack[1].function = Some("decode_two".into());
    after.groups.extend([new, same]);
    after.level = crate::report::model::Level::Strict;
    of(before, after)
}

#[test]
fn goldens() {
    let plain = |width, all| TextOptions { style: Style::PLAIN, width, all };
    golden("diff.txt", &text(&mixed(), &plain(Some(100), false)));
    golden("diff.all.txt", &text(&mixed(), &plain(None, true)));
    golden("diff.same.txt", &text(&of(sample::leaking(), sample::leaking()), &plain(None, false)));
    golden("diff.inconclusive.txt", &text(&of(sample::clean(), sample::inconclusive()), &plain(None, false)));
    golden("diff.json", &json::to_string(&mixed()));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for columns in [60, 80, 100, 132] {
        let text = text(&mixed(), &TextOptions { style: Style::PLAIN, width: Some(columns), all: true });
        let long: Vec<&str> = text.lines().filter(|line| width(line) > columns).collect();
        assert!(long.is_empty(), "{columns}: {long:#?}");
    }
}
