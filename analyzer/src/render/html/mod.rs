//! The report as one HTML page that needs nothing but a browser: no network, no other file.
//!
//! [`data`] packs the report, `page.js` and its parts draw it; without scripts the verdict and the text report are there.
//! The page allows itself no other script, style or request than its own (Content-Security-Policy by hashes), so that
//! whatever a report holds stays text even if an escape were forgotten. [`escape`] is where nothing is forgotten.

mod data;
mod escape;
mod facts;
mod flame;
mod source;
mod tables;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::load::AnyReport;
use super::text::{self, TextOptions};
use crate::report::model::{RunReport, Verdict};
use crate::report::words::ended;

pub(crate) const STYLE: &str = include_str!("page.css");
/// Elements and quantities, which the live page uses too.
pub(crate) const BASE_SCRIPT: &str = include_str!("base.js");
/// The charts, likewise.
pub(crate) const CHART_SCRIPT: &str = include_str!("chart.js");
const SCRIPT: &str = concat!(
    "(()=>{'use strict';\n",
    include_str!("base.js"),
    include_str!("chart.js"),
    include_str!("details.js"),
    include_str!("groups.js"),
    include_str!("flame.js"),
    include_str!("page.js"),
    "})();"
);
/// Bytes of the text report that a page holds at most.
const MOST_TEXT: usize = 100_000;

/// The page, a whole document. Reads source files that the report names, where they are at hand.
pub fn html(report: &AnyReport) -> String {
    with_budget(report, data::BUDGET)
}

fn with_budget(report: &AnyReport, budget: data::Budget) -> String {
    let (verdict, finding, who, reason) = headline(report);
    let color = match verdict {
        Verdict::Leaks => "%23c62f1d",
        Verdict::Inconclusive => "%23b7791f",
        Verdict::Clean => "%231f8a4c",
    };
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    let json = escape::json_in_script(&data::json(report, budget));
    let (plain, cut) = plain(report);
    let [finding, who, reason, plain] = [&finding, &who, &reason, &plain].map(|part| escape::text(part));
    let key = verdict.key();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <meta name=\"generator\" content=\"avleak {version}\">\n<title>avleak: {finding} — {who}</title>\n\
         <link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
         %3Ccircle cx='8' cy='8' r='7' fill='{color}'/%3E%3C/svg%3E\">\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <header class=\"banner {key}\">\n<p class=\"who\"><b>avleak</b> {who}</p>\n<h1>{finding}</h1>\n\
         <p class=\"reason\">{reason}</p>\n</header>\n<main id=\"app\"></main>\n\
         <details id=\"plain\" open>\n<summary>The report as plain text</summary>\n\
         <noscript><p>Scripts are off: this is the text of the report. With scripts there are charts, tables to sort and search, \
         and source lines.</p></noscript>\n<pre tabindex=\"0\">{plain}</pre>\n{cut}</details>\n\
         <script type=\"application/json\" id=\"data\">{json}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn headline(report: &AnyReport) -> (Verdict, String, String, String) {
    match report {
        AnyReport::Process(report) => (
            report.verdict,
            facts::finding(report.verdict, &report.leaks),
            facts::process(&report.target),
            report.reason.clone(),
        ),
        AnyReport::Run(run) => (run.verdict, facts::finding(run.verdict, &run.leaks), command(run), run.reason.clone()),
    }
}

/// `make check, exit 0, 3 processes`.
fn command(run: &RunReport) -> String {
    let mut text = run.argv.join(" ");
    if let Some(end) = run.ended {
        text.push_str(", ");
        text.push_str(&ended(end));
    }
    let processes = match run.processes.len() {
        1 => "1 process".to_string(),
        n => format!("{n} processes"),
    };
    format!("{text}, {processes} with FFmpeg, avleak's exit status {} ({})", run.exit.code, run.exit.decided_by)
}

/// The text report, and what to say where it had to be cut.
fn plain(report: &AnyReport) -> (String, &'static str) {
    let mut text = text::any(report, &TextOptions::default());
    if text.len() <= MOST_TEXT {
        return (text, "");
    }
    let end = (0..=MOST_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text.truncate(end);
    (text, "<p>… and more: <code>avleak report FILE.json</code> shows all of it.</p>\n")
}

/// What Content-Security-Policy knows an inline element by.
pub(crate) fn hash(content: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(content)))
}

#[cfg(test)]
mod tests;
