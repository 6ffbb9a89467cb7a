//! The page itself: its files, which are part of the program.

use crate::cli::report::STYLE;

/// A file of the page: its path, its type, and its text.
pub const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("page.html")),
    ("/report.css", CSS, STYLE),
    ("/page.css", CSS, include_str!("page.css")),
    ("/uplot.css", CSS, include_str!("../../../assets/uplot/uPlot.min.css")),
    ("/uplot.js", JAVASCRIPT, include_str!("../../../assets/uplot/uPlot.iife.min.js")),
    ("/page.js", JAVASCRIPT, include_str!("page.js")),
    ("/state.js", JAVASCRIPT, include_str!("state.js")),
    ("/store.js", JAVASCRIPT, include_str!("store.js")),
    ("/dom.js", JAVASCRIPT, include_str!("dom.js")),
    ("/list.js", JAVASCRIPT, include_str!("list.js")),
    ("/view.js", JAVASCRIPT, include_str!("view.js")),
    ("/charts.js", JAVASCRIPT, include_str!("charts.js")),
];

const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// What a browser may do for the page: run its own script and styles, and ask this server, nobody else.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                          connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
