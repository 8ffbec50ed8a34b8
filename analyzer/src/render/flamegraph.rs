//! Flame graphs: what leaked, by who allocated it, as one SVG that a browser searches and zooms.

use super::folded::{Folded, Weight};
use super::load::AnyReport;
use super::stack::Whose;
use crate::report::model::Group;
use inferno::flamegraph::color::{BasicPalette, Color, PaletteMap};
use inferno::flamegraph::{Options, Palette, from_lines};

/// Families of colours, light to dark: FFmpeg's blue, the program's orange, the system's grey, what leaked red. Two ends each;
/// a name's hash chooses between them.
const FAMILIES: [(Whose, [u8; 3], [u8; 3]); 4] = [
    (Whose::Libav, [150, 190, 235], [95, 150, 215]),
    (Whose::Own, [250, 185, 90], [235, 140, 55]),
    (Whose::Runtime, [205, 205, 205], [175, 175, 175]),
    (Whose::Avleak, [205, 205, 205], [175, 175, 175]),
];
const LEAKED: [u8; 3] = [225, 95, 85];

/// The leak groups among `groups` as an SVG document. Outermost frame at the bottom; on top what was allocated, and its class.
pub fn svg<'a>(groups: impl IntoIterator<Item = &'a Group>, weight: Weight) -> String {
    let mut folded = Folded::default();
    folded.add(None, groups, weight);
    draw(&folded, weight)
}

/// The same of a whole report; several processes stand side by side, each on a frame with its name.
pub fn of_report(report: &AnyReport, weight: Weight) -> String {
    draw(&Folded::of(report, weight), weight)
}

fn draw(folded: &Folded, weight: Weight) -> String {
    let title = match weight {
        Weight::Pinned => "Leaked: bytes pinned",
        Weight::Count => "Leaked: objects",
    };
    if folded.lines.is_empty() {
        return nothing(title);
    }
    let mut colors = palette(folded);
    let mut options = Options::default();
    options.title = title.to_string();
    options.subtitle = Some("FFmpeg blue · the program orange · system grey · on top what leaked".to_string());
    options.count_name = weight.unit().to_string();
    options.name_type = "Function:".to_string();
    options.colors = Palette::Basic(BasicPalette::Orange);
    options.palette_map = Some(&mut colors);
    options.deterministic = true;
    let mut out = Vec::new();
    match from_lines(&mut options, folded.lines.iter().map(String::as_str), &mut out) {
        // Names are cleaned, weights are positive, and a vector takes every byte: what could fail is inferno's own rules.
        Err(error) => nothing(&format!("{title} (not drawn: {error})")),
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
    }
}

fn palette(folded: &Folded) -> PaletteMap {
    let mut colors = PaletteMap::default();
    for (name, whose) in &folded.whose {
        let (_, light, dark) = FAMILIES.into_iter().find(|(family, ..)| family == whose).unwrap_or(FAMILIES[1]);
        colors.insert(name, between(light, dark, name));
    }
    for line in &folded.lines {
        let leaf = line.rsplit(';').next().and_then(|leaf| leaf.rsplit_once(' ')).map_or("", |(leaf, _)| leaf);
        colors.insert(leaf, Color { r: LEAKED[0], g: LEAKED[1], b: LEAKED[2] });
    }
    colors
}

/// A mix of both by the name: neighbours differ, and the same name looks the same in every graph.
fn between(light: [u8; 3], dark: [u8; 3], name: &str) -> Color {
    let share = u32::from(crc32fast::hash(name.as_bytes()).to_le_bytes()[0]);
    let mix = |part: usize| {
        let mixed = (u32::from(light[part]) * (255 - share) + u32::from(dark[part]) * share) / 255;
        u8::try_from(mixed).unwrap_or(u8::MAX)
    };
    Color { r: mix(0), g: mix(1), b: mix(2) }
}

/// A picture that says that there is nothing to draw.
fn nothing(title: &str) -> String {
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        r##"<?xml version="1.0" standalone="no"?>
<svg version="1.1" width="1200" height="80" viewBox="0 0 1200 80" xmlns="http://www.w3.org/2000/svg">
<rect width="100%" height="100%" fill="#f8f8f8"/>
<text x="600" y="32" text-anchor="middle" font-family="monospace" font-size="17">{title}</text>
<text x="600" y="58" text-anchor="middle" font-family="monospace" font-size="12">no leak to draw</text>
</svg>
"##
    )
}

#[cfg(test)]
#[path = "flamegraph_tests.rs"]
mod tests;
