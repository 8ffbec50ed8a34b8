//! `/`: a page that shows the processes as they run. It holds nothing of them itself: its script asks for that, with a token if need be.
//!
//! It looks like the HTML report, whose style, elements and charts it uses, and like that allows itself nothing but its own style and
//! script, and requests to where it came from.

use crate::render::html::{BASE_SCRIPT, CHART_SCRIPT, STYLE, hash};

const SCRIPT: &str = include_str!("live.js");
const OWN_STYLE: &str = include_str!("live.css");
/// The report's script parts read their tables from there.
const NO_TABLES: &str = "{\"t\":{\"frames\":[],\"stacks\":[],\"strings\":[]},\"src\":{}}";

fn script() -> String {
    format!("(()=>{{'use strict';\n{BASE_SCRIPT}{CHART_SCRIPT}{SCRIPT}}})();")
}

fn style() -> String {
    format!("{STYLE}{OWN_STYLE}")
}

/// Content-Security-Policy of the page.
pub fn policy() -> String {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(&script()),
        hash(&style())
    )
}

/// The page.
pub fn html() -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>avleak</title>\n<link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' \
         viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='7' fill='%231f66cc'/%3E%3C/svg%3E\">\n<style>{}</style>\n</head>\n<body>\n\
         <header class=\"banner\" id=\"banner\"><p class=\"who\"><b>avleak</b> <span id=\"who\"></span></p>\
         <h1 id=\"finding\">…</h1><p class=\"reason\" id=\"reason\"></p></header>\n<main id=\"app\">\
         <noscript><p>This page needs scripts; <a href=\"/report.json\">/report.json</a> does not.</p></noscript></main>\n\
         <script type=\"application/json\" id=\"data\">{NO_TABLES}</script>\n<script>{}</script>\n</body>\n</html>\n",
        style(),
        script()
    )
}
