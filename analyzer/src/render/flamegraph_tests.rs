//! Tests of flame graphs: what is drawn, in which colour, of which width.

use super::*;
use crate::report::model::Class;
use crate::report::sample;

/// Each drawn frame: its tooltip and its colour.
fn frames(svg: &str) -> Vec<(String, Color)> {
    let frame = |part: &str| {
        let title = part.split("</title>").next()?.to_string();
        let fill = part.split("fill=\"rgb(").nth(1)?.split(')').next()?;
        let parts: Vec<u8> = fill.split(',').map(|part| part.trim().parse().unwrap()).collect();
        Some((title, Color { r: parts[0], g: parts[1], b: parts[2] }))
    };
    svg.split("<title>").skip(1).filter_map(frame).collect()
}

fn color_of(svg: &str, name: &str) -> Color {
    let all = frames(svg);
    all.iter().find(|(title, _)| title.starts_with(name)).unwrap_or_else(|| panic!("{name} is not in {all:?}")).1
}

#[test]
fn frames_stand_on_their_callers_with_the_bytes_that_they_pin() {
    let report = sample::leaking();
    let svg = svg(&report.groups, Weight::Pinned);
    let total = 30 * 12_441_600 + 4 * 1_382_400;
    assert_eq!(report.leaks.pinned_bytes, total);
    let titles: Vec<String> = frames(&svg).into_iter().map(|(title, _)| title).collect();
    assert!(titles.contains(&"all (378,777,600 bytes, 100%)".to_string()), "{titles:?}");
    assert!(titles.contains(&"main (378,777,600 bytes, 100.00%)".to_string()), "{titles:?}");
    assert!(titles.contains(&"decode_one (373,248,000 bytes, 98.54%)".to_string()), "{titles:?}");
    assert!(titles.contains(&"[AVFrame indirectly lost] (5,529,600 bytes, 1.46%)".to_string()), "{titles:?}");
    assert!(titles.iter().any(|title| title.starts_with("cache::Session::remember(AVFrame const*) (")), "{titles:?}");
    assert!(!titles.iter().any(|title| title.contains("AVCodecContext")), "what is no leak is not drawn: {titles:?}");
    let counted = super::svg(&report.groups, Weight::Count);
    assert!(counted.contains("[AVFrame definitely lost] (30 objects, 88.24%)"), "{counted}");
}

#[test]
fn ffmpeg_is_blue_and_the_program_orange() {
    let svg = svg(&sample::leaking().groups, Weight::Pinned);
    let (libav, own) = (color_of(&svg, "av_frame_alloc"), color_of(&svg, "decode_one"));
    assert!(libav.b > libav.g && libav.g > libav.r, "{libav:?}");
    assert!(own.r > own.g && own.g > own.b, "{own:?}");
    let (system, leaked) = (color_of(&svg, "__libc_start_main_impl"), color_of(&svg, "[AVFrame definitely lost]"));
    assert!(system.r == system.g && system.g == system.b, "{system:?}");
    assert_eq!([leaked.r, leaked.g, leaked.b], LEAKED);
    assert_eq!(svg, super::svg(&sample::leaking().groups, Weight::Pinned), "the same leaks give the same picture");
}

#[test]
fn nothing_leaked_is_a_picture_too() {
    for groups in [vec![], sample::clean().groups] {
        let svg = svg(&groups, Weight::Count);
        assert!(svg.starts_with("<?xml") && svg.contains("no leak to draw"), "{svg}");
    }
}

#[test]
fn hostile_names_stay_text() {
    let mut group = sample::leaking().groups[0].clone();
    group.stack[1].function = Some("</title><script>alert(1)</script>;\u{0}\u{1b}[31m\n 7 8 &amp;".into());
    let drawn = svg([&group], Weight::Pinned);
    assert!(!drawn.contains("<script>alert"), "{drawn}");
    assert!(!drawn.contains(['\u{0}', '\u{1b}']), "{drawn}");
    assert!(drawn.contains("&lt;script&gt;alert(1)&lt;/script&gt;:"), "{drawn}");
}

#[test]
fn what_hangs_below_another_leak_is_weighed_once() {
    let groups = &sample::leaking().groups;
    let mut held = groups[0].clone();
    held.object = "AVBufferRef".into();
    held.class = Class::IndirectlyLost;
    held.outermost = 0;
    let with = svg([&groups[0], &held], Weight::Pinned);
    assert_eq!(with, svg([&groups[0]], Weight::Pinned));
    assert_eq!(Weight::fitting([&held]), Weight::Count);
    assert_eq!(Weight::fitting([&held, &groups[0]]), Weight::Pinned);
}
