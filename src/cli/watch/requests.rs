//! Which request gets which answer, and who gets one at all.

use super::answer::Answer;
use super::lines::{self, Known};
use super::page::FILES;
use super::run;
use super::runs::Root;
use crate::cli::plot::metrics::{KNOWN, POSITIONS};
use crate::cli::report;
use crate::cli::report::machine::{CHARTS, GPU_CHARTS};
use crate::error::{Result, catch_panic};
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::net::IpAddr;

/// An SVG file may hold scripts and addresses: as a document of its own it may do nothing.
const PICTURE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox";

/// What is served, and to whom.
pub struct Watch {
    pub root: Root,
    pub port: u16,
    /// What a request must show; `None` on loopback.
    pub token: Option<String>,
}

/// What stands after the ? of an address.
struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl Query<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

impl Watch {
    /// The answer to a request.
    pub fn answer(&self, request: &Request<Incoming>) -> Answer {
        catch_panic(|| self.answer_to(request)).unwrap_or_else(|e| Answer::error(&e))
    }

    fn answer_to(&self, request: &Request<Incoming>) -> Result<Answer> {
        let path = request.uri().path();
        let query = Query(form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).collect());
        if let Some(refusal) = self.refusal(request, &query) {
            return Ok(refusal);
        }
        if request.method() != Method::GET {
            let refusal = Answer::refused(405, "only GET is answered: the page changes nothing");
            return Ok(refusal.header("Allow", "GET".into()));
        }
        if let Some((_, kind, text)) = FILES.iter().find(|file| file.0 == path) {
            return Ok(self.with_cookie(Answer::new(kind, *text)));
        }
        self.about_runs(path, &query)
    }

    /// Why a request gets no answer, if it does not.
    fn refusal(&self, request: &Request<Incoming>, query: &Query<'_>) -> Option<Answer> {
        let Some(token) = &self.token else {
            // Another site could have its own name lead here, and would then be told everything by the browser.
            let local = header(request, "Host").is_some_and(is_local);
            let why =
                "this page is for this machine alone: open it as http://localhost:PORT/ or http://127.0.0.1:PORT/";
            return (!local).then(|| Answer::refused(403, why));
        };
        let cookie = header(request, "Cookie").unwrap_or_default();
        let name = self.cookie_name();
        let kept = cookie.split(';').filter_map(|one| one.trim().split_once('=')).find(|(known, _)| *known == name);
        let given = query.get("token").or(kept.map(|(_, value)| value)).unwrap_or_default();
        let why = "the address lacks the token: open the one that `nepa watch` printed when it was started";
        (!same(given, token)).then(|| Answer::refused(403, why))
    }

    /// One for each port: a browser sends cookies to all ports of a machine.
    fn cookie_name(&self) -> String {
        format!("nepa_watch_{}", self.port)
    }

    /// With the token as a cookie, so that scripts, pictures and links need not carry it.
    fn with_cookie(&self, answer: Answer) -> Answer {
        match &self.token {
            Some(token) => {
                let cookie = format!("{}={token}; HttpOnly; SameSite=Strict; Path=/", self.cookie_name());
                answer.header("Set-Cookie", cookie)
            }
            None => answer,
        }
    }

    fn about_runs(&self, path: &str, query: &Query<'_>) -> Result<Answer> {
        if path == "/api/runs" {
            return Ok(Answer::json(&self.runs()?));
        }
        if !["/api/run", "/api/lines", "/api/sections", "/picture", "/report"].contains(&path) {
            return Ok(Answer::refused(404, "there is nothing at this address"));
        }
        let name = query.get("run").unwrap_or_default();
        let Some(dir) = self.root.find(name) else {
            return Ok(Answer::refused(404, &format!("there is no run {name:?} in {}", self.root.given())));
        };
        let file = query.get("file").unwrap_or_default();
        let missing = || Answer::refused(404, &format!("there is no file {file:?} to show in the run {name:?}"));
        Ok(match path {
            "/api/run" => Answer::json(&run::details(&dir, name)?),
            "/api/lines" if lines::is_readable(file) => {
                let id = query.get("id").unwrap_or_default().to_string();
                let known = Known { id, bytes: query.number("bytes").unwrap_or(0), last: query.number("last") };
                Answer::json(&lines::after(&dir, file, &known)?)
            }
            "/api/lines" => missing(),
            "/api/sections" => Answer::new("text/html; charset=utf-8", report::sections_of_run(&dir)?),
            "/picture" => match run::picture(&dir, file)? {
                Some((kind, content)) => Answer::new(kind, content).policy(PICTURE_POLICY),
                None => missing(),
            },
            _ => Answer::new("text/html; charset=utf-8", report::text_of_run(&dir)?).policy(report::POLICY),
        })
    }

    /// The list of runs, and how their numbers are drawn.
    fn runs(&self) -> Result<Value> {
        let names = self.root.names()?;
        let brief = |name: &String| Some(run::brief(&self.root.find(name)?, name));
        let titles: Vec<Value> = KNOWN.iter().map(|(name, title, log)| json!([name, title, log])).collect();
        Ok(json!({
            "folder": self.root.given(),
            "is_run": self.root.is_run(),
            "runs": names.iter().filter_map(brief).collect::<Vec<_>>(),
            "titles": titles,
            "positions": POSITIONS,
            "machine": CHARTS,
            "gpu": GPU_CHARTS,
        }))
    }
}

/// The first header of this name, if it is text.
fn header<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

/// Whether a Host header names this machine for itself.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether two texts are the same, in a time that does not tell where they differ.
fn same(given: &str, expected: &str) -> bool {
    let differences = given.bytes().zip(expected.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == expected.len() && differences == 0
}
